"""The lines of a file: one reader for text, JSON lines, requests, word lists and gin files.

A line ends with a line feed, a carriage return or both, as Python reads text; a byte order mark at its beginning is no
part of it. Whatever compression `formats` knows is taken off.
"""

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mrt5_jax.data.formats import BYTE_ORDER_MARK, KIND_NAMES, Format, Kind, decompressed, explained_damage, recognize
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import AnyPath, Readable, files_for, rereadable

LONGEST_LINE = 1 << 26
"""Bytes of a line that is held in memory. Documents of plain text are not, and may be longer."""

_BLOCK = 1 << 17  # damage is told to so many bytes


class Line(NamedTuple):
    """A line that is not blank."""

    number: int
    """From 1, blank ones counted."""
    data: bytes
    """Without its end."""


def read_lines(path: AnyPath, kinds: Sequence[Kind], wanted: str, name: str = "") -> Iterator[Line]:
    """Reads the lines of a file that are not blank.

    Args:
        kinds: of files that may be read so.
        wanted: what the file should be, for the message.
        name: of the file, where `path` is a copy.

    Raises:
        UserError: the file is of another kind or damaged, or a line is too long.
    """
    shown = name or str(path)
    found = recognize(path, shown)
    if found.kind not in kinds:
        raise UserError(f"{shown}: holds {KIND_NAMES[found.kind]}, not {wanted}")
    with files_for(path).open(path) as raw:
        yield from lines_of(raw, found, shown)


def lines_of(raw: Readable, found: Format, name: str) -> Iterator[Line]:
    """Reads the lines of an open file that are not blank; errors as in `read_lines`."""
    number = 0
    with decompressed(raw, found.compression) as stream:
        blocks = split_lines(stream, name)
        while True:
            with explained_damage(f"{name}, after line {number}"):
                lines = next(blocks, None)
            if lines is None:
                return
            for line in lines:
                number += 1
                line = line.rstrip(b"\r\n")
                while line.startswith(BYTE_ORDER_MARK):
                    line = line[len(BYTE_ORDER_MARK) :]
                if line and not line.isspace():
                    yield Line(number, line)


def split_lines(stream: Readable, name: str) -> Iterator[list[bytes]]:
    """Yields all lines with their ends, many at a time."""
    pending = b""
    while block := stream.read(_BLOCK):
        while block.endswith(b"\r") and (more := stream.read(1)):  # the line feed that belongs to it
            block += more
        # Line feeds alone are found several times as fast, and most files have no other ends.
        lines = block.splitlines(keepends=True) if b"\r" in block else io.BytesIO(block).readlines()
        lines[0] = pending + lines[0]
        pending = b"" if block.endswith((b"\n", b"\r")) else lines.pop()
        yield lines
        if len(pending) > LONGEST_LINE:
            raise UserError(f"{name}: a line is longer than {LONGEST_LINE >> 20} MB: is it the right file?")
    if pending:
        yield [pending]


def read_text(path: AnyPath, wanted: str) -> str:
    """Reads the text of a small file, its lines ended by line feeds and blank ones empty.

    Raises:
        UserError: the file is not plain text in UTF-8.
    """
    lines: list[str] = []
    with rereadable(path) as content:  # a pipe is a file, too
        for number, data in read_lines(content, ("text",), wanted, str(path)):
            lines += [""] * (number - 1 - len(lines))  # errors are found by their lines
            try:
                lines.append(data.decode())
            except UnicodeDecodeError as error:
                raise UserError(f"{path}, line {number}: not UTF-8 ({error.reason}): write it as UTF-8") from None
    return "".join(f"{line}\n" for line in lines)
