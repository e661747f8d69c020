"""How fast files are opened for the first time, opened again, and read: `python -m benchmarks.reading`.

    python -m benchmarks.reading --other=../before     # against another checkout, taking turns

Every turn is a process of its own with an empty cache: it opens a file of each format (which reads it once), opens it
again (which should read nothing), and then reads all its chunks of 1193 ids in a random order.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CHUNK = 1193
PHASES = ("first opening", "second opening", "reading")


def write_corpus(folder: Path, megabytes: int) -> list[Path]:
    """The same random words in every format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(0)
    alphabets = ("abcdefghijklmnopqrstuvwxyz", "абвгдежзиклмнопрстуфхцчшы", "的一是不了人我在有他这中大来上国")
    words = ["".join(generator.choice(list(letters), 7)) for letters in alphabets for _ in range(3000)]
    texts, written = [], 0
    while written < megabytes << 20:
        texts.append(" ".join(generator.choice(words, generator.integers(5, 300))))
        written += len(texts[-1].encode()) + 1
    text = "\n".join(texts).encode()
    lines = "".join(json.dumps({"text": line, "url": "u"}) + "\n" for line in texts).encode()
    (folder / "en.txt").write_bytes(text)
    (folder / "en.jsonl").write_bytes(lines)
    (folder / "en.txt.gz").write_bytes(gzip.compress(text, 6))
    (folder / "en.jsonl.gz").write_bytes(gzip.compress(lines, 6))
    pq.write_table(pa.table({"text": texts}), folder / "en.parquet")
    return sorted(folder.iterdir())


def measure(path: Path) -> dict[str, float]:
    """Seconds of each phase."""
    from mrt5_jax.data.text_files import TextStream

    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        stream = TextStream([path])
        seconds.append(time.perf_counter() - begin)
    numbers = np.random.default_rng(0).permutation(stream.length // CHUNK)
    begin = time.perf_counter()
    for number in numbers:
        stream.read(int(number) * CHUNK, (int(number) + 1) * CHUNK)
    return dict(zip(PHASES, [*seconds, time.perf_counter() - begin], strict=True))


def take_turn(checkout: Path, paths: list[Path]) -> dict[str, dict[str, float]]:
    """What a process with the code of a checkout measures, by file name."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--turn", *map(str, paths)]
        environment = os.environ | {"PYTHONPATH": str(checkout), "MRT5_CACHE_DIR": cache}
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", metavar="CHECKOUT", help="measure this one too, and print ratios")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--megabytes", type=int, default=64, help="of text (default: 64)")
    parser.add_argument("--turn", nargs="+", metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.turn:
        print(json.dumps({Path(name).name: measure(Path(name)) for name in args.turn}))
        return
    here = Path(__file__).resolve().parent.parent
    checkouts = [here, *([Path(args.other).resolve()] if args.other else [])]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_corpus(Path(folder), args.megabytes)
        turns = [[take_turn(checkout, paths) for checkout in checkouts] for _ in range(args.rounds)]
    print(f"{'':14}{'':16}{'MB of text/s':>14}{'speed of this / other: median (least to most)':>50}")
    for path in paths:
        for phase in PHASES:
            own = [turn[0][path.name][phase] for turn in turns]
            line = f"{path.name:14}{phase:16}{args.megabytes / statistics.median(own):14,.0f}"
            if args.other:
                ratios = [turn[1][path.name][phase] / turn[0][path.name][phase] for turn in turns]
                line += f"{statistics.median(ratios):>25.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(line)


if __name__ == "__main__":
    main()
