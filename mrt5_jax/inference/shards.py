"""One file of requests answered by several processes, which need not know of each other.

Process i of n answers the requests i, i + n, i + 2n, ... into a file of its own beside OUTPUT, which it goes on with
where it was stopped. When the answers of all are there, they are put together in the order of the requests, and OUTPUT
has the settings and the lines that one process would have given it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

from mrt5_jax.data.mixing import Shard
from mrt5_jax.errors import UserError
from mrt5_jax.inference.resumable import INFER, lines_made, remove_lines, resume_lines
from mrt5_jax.runs.files import AnyPath, FilePath, as_path, explained, files_for

WHOLE = Shard(0, 1)
"""The share of a process that answers all requests."""

_LINES_AT_ONCE = 4096


def shard_named(text: str) -> Shard:
    """Reads I/N as share I of N.

    Raises:
        UserError: it is none.
    """
    index, _, count = text.partition("/")
    if not (_is_number(index) and _is_number(count) and int(index) < int(count)):
        raise UserError(
            f"--shard={text}: should be I/N, as in 0/4: this process's share, from 0 to N - 1, and how many"
        )
    return Shard(int(index), int(count))


def shard_name(shard: Shard) -> str:
    """Returns the text that `shard_named` reads."""
    return f"{shard.index}/{shard.count}"


def number_of(place: int, shard: Shard) -> int:
    """Returns the number in the file of the request at a place among the shard's, both from 0."""
    return shard.index + place * shard.count


def num_requests(shard: Shard, total: int) -> int:
    """Counts the requests of a shard, of so many in the file."""
    return len(range(shard.index, total, shard.count))


def shard_file(output: AnyPath, shard: Shard) -> FilePath:
    """Returns where a shard's part of OUTPUT is: OUTPUT-00000-of-00004, and OUTPUT itself where it has everything."""
    path = as_path(output)
    return path if shard == WHOLE else path.with_name(f"{path.name}-{shard.index:05}-of-{shard.count:05}")


def shard_settings(settings: dict[str, Any], shard: Shard) -> dict[str, Any]:
    """Returns what made the answers of a shard, given what makes OUTPUT."""
    return settings if shard == WHOLE else settings | {"shard": shard_name(shard)}


def merge_shards(
    output: AnyPath, settings: dict[str, Any], num_lines: int, count: int, made_by: str = INFER
) -> list[Shard]:
    """Puts the answers of `count` shards together in OUTPUT, or goes on where it stops; their files stay.

    Args:
        settings: that make OUTPUT.
        num_lines: requests in the file.
        made_by: the command that writes the lines.

    Returns:
        The shards that are not complete: where there are some, OUTPUT is left as it is.

    Raises:
        InUseError: another process is at it.
        UserError: OUTPUT or the file of a shard was begun by something else, or cannot be read or written.
    """
    shards = [Shard(index, count) for index in range(count)]
    files = [shard_file(output, shard) for shard in shards]
    missing = [
        shard
        for shard, file in zip(shards, files, strict=True)
        if lines_made(file, shard_settings(settings, shard), made_by) < num_requests(shard, num_lines)
    ]
    if not missing:
        with resume_lines(output, settings, made_by) as lines:
            answers = islice(_in_turn(files[:num_lines]), lines.num_lines, num_lines)
            while found := list(islice(answers, _LINES_AT_ONCE)):
                lines.append(found)
    return missing


def remove_shards(output: AnyPath, count: int) -> None:
    """Removes the files of `count` shards, as far as they are there.

    Raises:
        UserError: one cannot be removed.
    """
    for index in range(count):
        remove_lines(shard_file(output, Shard(index, count)))


def _in_turn(files: Sequence[FilePath]) -> Iterator[str]:
    """The lines of files, one of each in turn, without their ends."""
    with contextlib.ExitStack() as opened:
        streams = []
        for file in files:
            with explained(file):
                streams.append((file, opened.enter_context(files_for(file).open(file))))
        for file, stream in cycle(streams):
            with explained(file):
                line = stream.readline()
            if not line:
                return
            yield line.decode().removesuffix("\n")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
