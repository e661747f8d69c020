"""How far a command is: a live line on a terminal, a few lines in a log file, none for what is quick."""

import io

import pytest
from rich.console import Console

from mrt5_jax.cli.progress import progress, time_left, watched


def lines_of(seconds: list[float], total: int | None) -> list[str]:
    """What a log file has of work of which one item is done at each of these times."""
    out, times = io.StringIO(), iter([0.0, *seconds])
    with progress("lines", Console(file=out, width=200), lambda: next(times), label="answering") as update:
        for done in range(len(seconds)):
            update(done, total)
    return out.getvalue().splitlines()


def test_quick_work_leaves_no_line() -> None:
    assert lines_of([0.1, 1.0, 4.9], 3) == []


def test_long_work_leaves_few_lines_with_the_time_left() -> None:
    """The first after five seconds, then whenever the time has doubled."""
    found = lines_of([float(second) for second in range(101)], 200)
    assert found[0] == "answering: 5 of 200 lines, 0:03:15 left"
    assert [line.split()[1] for line in found] == ["5", "10", "20", "40", "80"]


def test_without_a_total_nothing_is_promised() -> None:
    assert lines_of([0.0, 6.0], None) == ["answering: 1 lines"]


@pytest.mark.parametrize(
    ("made", "left", "shown"),
    [(0, 5, ""), (2, None, ""), (2, 0, ""), (1, 3661, "1:01:01 left"), (10, 5, "0:00:00 left")],
)
def test_time_left_is_by_the_pace_so_far(made: int, left: int | None, shown: str) -> None:
    assert time_left(made, left, 1.0) == shown


def test_on_a_terminal_it_is_live_whatever_is_worked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label is text: braces and brackets in the name of a file mean nothing."""
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    with progress("lines", Console(file=out, force_terminal=True, width=80), label="{de,en} [b]") as update:
        update(0, 10)
        update(5, 10)
    assert "5/10" in out.getvalue()
    assert "{de,en} [b]" in out.getvalue()


def test_items_go_by_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(watched(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
