"""Inspection on a terminal: told without colour, aligned, never wider than the window."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mrt5_jax.data.vocabulary import EOS_ID, encode
from mrt5_jax.evaluation.inspection import Piece, pieces
from mrt5_jax.evaluation.terminal import render_pieces, statistics_line

WIDEST = 8
"""Cells of the widest piece that is no cluster of marks: <id_300>."""


def make_pieces(data: bytes, deleted: set[int]) -> list[Piece]:
    ids = np.asarray([*encode(data), EOS_ID], np.int32)
    keep = np.array([position not in deleted for position in range(len(ids))])
    return pieces(ids, keep, np.where(keep, -1.0, -29.0).astype(np.float32))


def test_marks_stand_below_what_they_mark() -> None:
    """Deleted, partly deleted, wide and escaped characters and line ends, read off without any style."""
    found = make_pieces("né日b\nx\t".encode(), {0, 2, 3, 4, 5, 7, 9, 10})
    lines = [line.plain for line in render_pieces(found, -30.0, width=20)]
    assert lines == [
        "né日b↵",
        "x1x  x",
        "959 09",
        "x\\t</s>",
        " x x",
        "09 9   ",
    ]


@given(st.text(max_size=30).map(lambda text: text.encode(errors="replace")), st.integers(WIDEST, 30))
def test_lines_fit_and_agree(data: bytes, width: int) -> None:
    """Text, marks and values of a line are equally wide; the texts joined are the pieces."""
    found = [piece for piece in make_pieces(data, {1, 2, 5}) if cell_len(piece.text) <= WIDEST]
    lines = [line.plain for line in render_pieces(found, -30.0, width)]
    texts, marks, values = lines[::3], lines[1::3], lines[2::3]
    assert "".join(texts).replace("◌", "") == "".join(piece.text.replace("\n", "↵") for piece in found).replace("◌", "")
    for text, mark, value in zip(texts, marks, values, strict=True):
        assert cell_len(text) <= width
        assert len(mark) <= len(value) == cell_len(text)
    assert sum(len(mark.replace(" ", "")) for mark in marks) == sum(piece.state != "kept" for piece in found)


def test_statistics_line() -> None:
    """Bytes without the end of the sequence, which is told apart with its own kind."""
    line = statistics_line(make_pieces("é1".encode() + b"\xff", {0, 3, 4}))
    assert line == (
        "4 bytes: 2 kept, 2 deleted (50.0%); bytes of letters: 1 of 2 (50.0%); other bytes: 0 of 1 (0.0%); "
        "bytes that are no UTF-8: 1 of 1 (100.0%); special tokens: 1 of 1 (100.0%)"
    )
