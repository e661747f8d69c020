"""Seconds from a new process to the toy's first text, and what they are made of: `python -m benchmarks.first_text`.

Each run is a new Python that does what the README shows: imports the package, loads the toy, lets it write a text, and
finds what is deleted of it. The first one compiles, into an empty cache; the others find the programs there (warm).
"first text, whole" is measured from outside, from the start of the process until the text is there; "python" is what of
it lies before the first line. Each run also says whether TensorFlow, seqio or torch were imported.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.machine import this_machine

HEAVY = ("tensorflow", "tensorflow_datasets", "seqio", "torch", "transformers")
WHOLE = "first text, whole"
STEPS = ("python", "import mrt5_jax", "its libraries", "load", "first text", "deletions", "next text")
PARTS = (*STEPS[:5], WHOLE, *STEPS[5:])
_CHILD = f"""
import time
times = [time.time()]
import mrt5_jax
times.append(time.time())
mrt5_jax.load
times.append(time.time())
model = mrt5_jax.load("toy")
times.append(time.time())
text = model.generate(["#HelloWorld"])[0].text
times.append(time.time())
model.deletions(["#HelloWorld"])
times.append(time.time())
model.generate(["#HowAreYou"])
times.append(time.time())
import json, sys
print(json.dumps([times, text, [name for name in {HEAVY} if name in sys.modules]]))
"""


def run_once(cache: str) -> tuple[dict[str, float], str, list[str]]:
    """Returns seconds by part, the text, and which heavy libraries were imported."""
    environment = {**os.environ, "MRT5_CACHE_DIR": cache}
    start = time.time()
    done = subprocess.run([sys.executable, "-c", _CHILD], env=environment, capture_output=True, text=True, check=True)
    times, text, heavy = json.loads(done.stdout.splitlines()[-1])
    ends = dict(zip(STEPS, times, strict=True))
    seconds, before = {}, start
    for part, end in ends.items():
        seconds[part] = end - before
        before = end
    return {**seconds, WHOLE: ends["first text"] - start}, text, heavy


def main() -> None:
    """Prints a table: cold, and warm with its range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="warm ones (default: 7)")
    args = parser.parse_args()
    print(this_machine())
    with tempfile.TemporaryDirectory() as cache:
        cold, text, heavy = run_once(cache)
        warm = [run_once(cache) for _ in range(args.runs)]
    assert all(found[1] == text for found in warm)
    print(f"the text: {text!r}; imported of {', '.join(HEAVY)}: {', '.join(heavy) or 'none'}\n")
    print("| seconds | cold | warm, median | least - most |\n|---|---|---|---|")
    for part in PARTS:
        found = sorted(seconds[part] for seconds, _, _ in warm)
        print(f"| {part} | {cold[part]:.2f} | {statistics.median(found):.2f} | {found[0]:.2f} - {found[-1]:.2f} |")


if __name__ == "__main__":
    main()
