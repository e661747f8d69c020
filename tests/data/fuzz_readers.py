"""Thousands of broken files, read as `mrt5 data count` and `mrt5 infer` read them, in one process.

    python -m tests.data.fuzz_readers --mutations 5000

Each is read, or refused in one line; anything else is printed with the seed that makes it again, and the exit code is
then 1, as it is where the process took a gigabyte of memory, libraries not counted.
"""

import argparse
import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import random
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from mrt5_jax.data.tables import Table
from mrt5_jax.data.text_files import TextStream, find_files
from mrt5_jax.errors import UserError
from mrt5_jax.inference import requests

MOST_BYTES = 1 << 30
_LIMITS = requests.Limits(384, 1024, 256, "truncate")
_WORDS = ["the", "quick", "brown", "fox", "wäre", "überall,", "если", "бы", "не", "собака", "日本語", "हिन्दी"]


class Case(NamedTuple):
    """A broken file."""

    name: str
    content: bytes
    kind: str
    """The format that it was made of."""
    mutation: str


class Outcome(NamedTuple):
    """What became of a case in every reader: read, or the line that refuses it."""

    refusals: dict[str, str]


def whole_files() -> dict[str, bytes]:
    """One file of each format, by name."""
    generator = random.Random(0)
    texts = [" ".join(generator.choices(_WORDS, k=generator.randrange(1, 30))) for _ in range(60)]
    text = "\n".join(texts).encode()
    lines = "".join(json.dumps({"text": line, "inputs": line, "targets": "t"}) + "\n" for line in texts).encode()
    return {
        "en.txt": text,
        "crlf.txt": b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"),
        "en.jsonl": lines,
        "en.txt.gz": gzip.compress(text),
        "en.jsonl.gz": gzip.compress(lines),
        "en.jsonl.bz2": bz2.compress(lines),
        "en.txt.xz": lzma.compress(text),
        "en.jsonl.zst": _compress("zstd", lines),
        "en.txt.lz4": _compress("lz4", text),
        "en.parquet": _parquet(texts),
        "en.tfrecord": _tfrecords(texts),
        "en.tsv": "".join(f"{line}\t{line[:9]}\n" for line in texts).encode(),
    }


def _compress(codec: str, data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, codec) as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


def _parquet(texts: list[str]) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": texts, "number": range(len(texts))}), out, row_group_size=20)
    return out.getvalue().to_pybytes()


def _tfrecords(texts: list[str]) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        with tf.io.TFRecordWriter(file.name) as writer:
            for text in texts:
                value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
                example = tf.train.Example(features=tf.train.Features(feature={"text": value}))
                writer.write(example.SerializeToString())
        return Path(file.name).read_bytes()


def _truncated(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content))]


def _overwritten(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.choice((1, 3, 50))):
        place = generator.randrange(len(changed))
        changed[place] = generator.randrange(256)
    return bytes(changed)


def _cut_out(content: bytes, generator: random.Random) -> bytes:
    begin, end = sorted(generator.randrange(len(content)) for _ in range(2))
    return content[:begin] + content[end:]


def _inserted(content: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(len(content))
    junk = generator.choice((bytes(9), b"\xff" * 9, b"\n\n", b"\xef\xbb\xbf", b"\xff\xfe", generator.randbytes(99)))
    return content[:place] + junk + content[place:]


def _mixed_ends(content: bytes, generator: random.Random) -> bytes:
    return b"".join(
        line + generator.choice((b"\n", b"\r\n", b"\r", b"\n\n", b"\r\r\n")) for line in content.split(b"\n")
    )


def _huge_line(content: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(len(content))
    return content[:place] + b"a" * generator.choice((1 << 20, (1 << 20) + 1, 3 << 20)) + content[place:]


def _joined(content: bytes, generator: random.Random) -> bytes:
    return content + generator.choice(list(whole_files().values()))


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "whole": lambda content, _: content,
    "truncated": _truncated,
    "overwritten": _overwritten,
    "cut out": _cut_out,
    "inserted": _inserted,
    "mixed line ends": _mixed_ends,
    "nested": lambda content, _: gzip.compress(content),
    "empty": lambda _, generator: generator.choice((b"", b"\n", b"\r\n\r\n", b"\xef\xbb\xbf", gzip.compress(b""))),
    "huge line": _huge_line,
    "joined": _joined,
}


def make_case(seed: int, files: dict[str, bytes]) -> Case:
    """A mutation, or two, of one of the files, half of the time under another file's name."""
    generator = random.Random(seed)
    kind = generator.choice(list(files))
    content, names = files[kind], generator.choices(list(MUTATIONS), k=generator.choice((1, 1, 2)))
    for name in names:
        content = MUTATIONS[name](content, generator) if content else content
    name = kind if generator.random() < 0.5 else generator.choice([*files, "en", "en.dat", "en.JSON", "en.npy"])
    return Case(name, content, kind, " and ".join(names))


def read_case(case: Case, folder: Path) -> Outcome:
    """Reads the file as text, as rows and as requests, to its end.

    Raises:
        AssertionError: a refusal has more than one line, or does not name the file.
        Exception: whatever is no refusal.
    """
    path = folder / case.name
    path.write_bytes(case.content)
    refusals = {}
    for reader in (_read_text, _read_rows, _read_requests):
        try:
            reader(path)
        except UserError as error:
            refusals[reader.__name__] = str(error)
    for line in refusals.values():
        assert "\n" not in line, f"more than one line: {line}"
        assert case.name in line, f"does not name the file: {line}"
    return Outcome(refusals)


def _read_text(path: Path) -> None:
    stream = TextStream(find_files(str(path)))
    for begin in range(0, stream.length, 1 << 16):
        stream.read(begin, min(begin + (1 << 16), stream.length))


def _read_rows(path: Path) -> None:
    for found in find_files(str(path)):
        table = Table(found)
        for number in range(table.size):
            table.row(number)


def _read_requests(path: Path) -> None:
    requests.survey(path, "score", _LIMITS)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for files, with a cache of its own in it."""
    before = os.environ.get("MRT5_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MRT5_CACHE_DIR"] = f"{folder}/cache"
        try:
            yield Path(folder)
        finally:
            os.environ.pop("MRT5_CACHE_DIR")
            if before is not None:
                os.environ["MRT5_CACHE_DIR"] = before


def main() -> int:
    """Runs the mutations, prints what became of them by format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=5000)
    parser.add_argument("--first_seed", type=int, default=0)
    args = parser.parse_args()
    files, failures, tally = whole_files(), 0, Counter()
    with scratch_folder() as folder:
        for seed in range(args.first_seed, args.first_seed + args.mutations):
            case = make_case(seed, files)
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    outcome = read_case(case, folder)
            except Exception as error:
                failures += 1
                print(f"seed {seed}: {case.name} ({case.mutation} {case.kind}): {type(error).__name__}: {error}")
                continue
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
            for reader in ("_read_text", "_read_rows", "_read_requests"):
                tally[case.kind, reader, "refused" if reader in outcome.refusals else "read"] += 1
    print(f"{'format':14}{'text':>16}{'rows':>16}{'requests':>16}   (read/refused)")
    for kind in files:
        cells = (
            f"{tally[kind, reader, 'read']}/{tally[kind, reader, 'refused']}"
            for reader in ("_read_text", "_read_rows", "_read_requests")
        )
        print(f"{kind:14}" + "".join(f"{cell:>16}" for cell in cells))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    libraries = _resident_library_bytes()
    print(
        f"{args.mutations:,} mutations, {failures} failures; at most {peak >> 20:,} MB resident, "
        f"{libraries >> 20:,} MB of them libraries"
    )
    return int(failures > 0 or peak - libraries >= MOST_BYTES)


def _resident_library_bytes() -> int:
    """Pages that are mapped from files: TensorFlow's are more than half of all."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("RssFile:")[2].split()[0]) << 10


if __name__ == "__main__":
    sys.exit(main())
