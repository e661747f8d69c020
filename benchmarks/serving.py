"""`mrt5 serve` under load.

    python -m benchmarks.serving                            # 64 clients for 30 s
    python -m benchmarks.serving --seconds=120              # for figures: memory has time to grow
    python -m benchmarks.serving --clients=4 --seconds=8    # to try it

The bench model (emb 512, 9 + 3 layers), random weights, a gate that keeps about half of random bytes. Clients, each on
a connection and a thread of its own, send one text of 16 to 1,023 bytes after another; 32 ids are generated. Compared:

    alone            one call after another of `Model.generate`, compiled for one row
    1 client         the server, with nobody else
    all clients      the server, with all of them: each asks again as soon as it has its answer
    half of them     with half as many, which ask as fast: they wait half as long, and get as many answers a second
    half the rate    texts come at random times, half as many a second as all clients have got; a text's time counts
                     from then, also where all connections are busy

Every answer is compared with the one alone: where its ids differ, the two at the first difference should be as good
as equally probable (a near-tie, 1e-4 nats), since batches round otherwise. A refusal ends the benchmark. Memory is that
of the server's process, 20 s after all clients have begun and at the end.
"""

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

# isort: off
# First: it sets the allocator, as the command line does for the server.
from benchmarks.contest import CONSOLE
# isort: on

import numpy as np
from rich.table import Table

from benchmarks.bench_model import CONFIG, LENGTH, keeping, make_batch, make_params
from benchmarks.machine import this_machine
from mrt5_jax.api.loading import load
from mrt5_jax.api.model import Model
from mrt5_jax.config import ExecutionConfig
from mrt5_jax.inference.requests import Request, request_of

NUM_TEXTS = 64
SETTLED_SECONDS = 20.0
"""After which memory should not grow."""
NEAR_TIE = 1e-4


class Load(NamedTuple):
    """What some clients have seen."""

    seconds: float
    latencies: list[float]
    """Of each answer, seconds."""
    answers: list[tuple[int, tuple[int, ...]]]
    """Which text, and the ids that came back."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64, help="that ask at once (default: 64)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        help="with all clients; the other loads take a quarter of it each (default: 30)",
    )
    parser.add_argument("--tokens", type=int, default=32, help="ids that are generated for a text (default: 32)")
    parser.add_argument("--batch_size", type=int, default=16, help="the server's (default: 16)")
    parser.add_argument("--max_rungs", type=int, default=4, help="the server's, and of the calls alone (default: 4)")
    parser.add_argument(
        "--when",
        type=Path,
        metavar="FILE",
        help="measure when this file is there: until then the server, once it has started, waits for a quiet machine",
    )
    args = parser.parse_args()
    CONSOLE.print(f"{this_machine()}")
    with tempfile.TemporaryDirectory() as folder:
        model_dir = Path(folder) / "model"
        save_model_dir(model_dir, args.tokens)
        model = load(
            model_dir,
            input_length=LENGTH,
            target_length=args.tokens,
            execution=ExecutionConfig(max_rungs=args.max_rungs),
        )
        texts = random_texts()
        expected = [tuple(model.generate([text], batch_size=1)[0].ids) for text in texts]
        with tempfile.TemporaryFile("w+") as log:
            run(args, model_dir, model, texts, expected, log)


def save_model_dir(path: Path, tokens: int) -> None:
    params = keeping(make_params(), make_batch(), LENGTH // 2)
    execution = ExecutionConfig()
    Model(CONFIG, params, "hard", "bench", 0, None, execution, None, LENGTH, tokens).save(path)


def random_texts() -> list[str]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(16, LENGTH, NUM_TEXTS)
    return [bytes(rng.integers(32, 127, length, dtype=np.uint8)).decode() for length in lengths]


def alone_load(model: Model, texts: list[str]) -> Load:
    """One call after another, each of one text; everything is compiled."""
    latencies, start = [], time.perf_counter()
    for text in texts:
        before = time.perf_counter()
        model.generate([text], batch_size=1)
        latencies.append(time.perf_counter() - before)
    return Load(time.perf_counter() - start, latencies, [])


def run(args, model_dir, model, texts, expected, log) -> None:
    flags = [f"--input_length={LENGTH}", f"--max_target_length={args.tokens}", f"--batch_size={args.batch_size}"]
    flags += [f"--max_rungs={args.max_rungs}"]
    command = [sys.executable, "-m", "mrt5_jax", "serve", f"--model_dir={model_dir}", "--port=0", *flags]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as server:
        try:
            assert server.stdout is not None
            line = next((line for line in server.stdout if line.startswith("listening on ")), "")
            if not line:
                log.seek(0)
                raise SystemExit(f"the server has ended:\n{log.read()}")
            address = line.rpartition("http://")[2].strip()
            CONSOLE.print(f"listens after {time.perf_counter() - start:.0f} s")
            while args.when and not args.when.exists():
                time.sleep(1)
            loads = {"alone": alone_load(model, texts)}
            loads["1 client"] = under_load(address, texts, 1, args.seconds / 4)
            settled: list[float] = []
            timer = threading.Timer(SETTLED_SECONDS, lambda: settled.append(resident(server.pid)))
            timer.start()
            try:
                loads["all clients"] = full = under_load(address, texts, args.clients, args.seconds)
            finally:
                timer.cancel()
            loads["half of them"] = under_load(address, texts, max(1, args.clients // 2), args.seconds / 4)
            rate = len(full.latencies) / full.seconds / 2
            loads["half the rate"] = at_rate(address, texts, args.clients, args.seconds / 4, rate)
            memory = resident(server.pid)
            metrics = get(address, "/metrics")
        finally:
            server.terminate()
    print_loads(loads)
    if settled:
        CONSOLE.print(
            f"memory: {settled[0]:.2f} GB after {SETTLED_SECONDS:.0f} s, {memory / settled[0]:.3f} of it at the end"
        )
    else:
        CONSOLE.print(f"memory: {memory:.2f} GB at the end; whether it grows, more than {SETTLED_SECONDS:.0f} s tell")
    CONSOLE.print(next(line for line in metrics.splitlines() if line.startswith("mrt5_compilations_total")))
    print_differences(model, texts, expected, [answer for found in loads.values() for answer in found.answers])


def under_load(address: str, texts: list[str], clients: int, seconds: float) -> Load:
    """Clients that ask again as soon as they have an answer."""
    until = time.perf_counter() + seconds

    def moments() -> Iterator[float]:
        while (now := time.perf_counter()) < until:
            yield now

    return load_of(address, texts, [moments() for _ in range(clients)])


def at_rate(address: str, texts: list[str], clients: int, seconds: float, rate: float) -> Load:
    """Texts that come at random times, so many a second on average, whether or not the last one is answered."""
    rng = np.random.default_rng(0)
    gaps = rng.exponential(1 / rate, round(rate * seconds))
    coming, lock = iter((time.perf_counter() + np.cumsum(gaps)).tolist()), threading.Lock()

    def moments() -> Iterator[float]:
        while True:
            with lock:
                moment = next(coming, None)
            if moment is None:
                return
            time.sleep(max(0.0, moment - time.perf_counter()))
            yield moment

    return load_of(address, texts, [moments() for _ in range(clients)])


def load_of(address: str, texts: list[str], clients: list[Iterator[float]]) -> Load:
    """Sends a text at each moment of each client, on a connection of the client's own.

    Raises:
        SystemExit: a request is refused.
    """
    latencies, answers = [], []

    def ask(number: int) -> None:
        connection, rng = http.client.HTTPConnection(address, timeout=300), np.random.default_rng(number)
        for moment in clients[number]:
            which = int(rng.integers(len(texts)))
            body = json.dumps({"texts": [texts[which]]})
            connection.request("POST", "/v1/generate", body, {"content-type": "application/json"})
            response = connection.getresponse()
            content = json.loads(response.read())
            if response.status != 200:
                raise SystemExit(f"an answer with status {response.status}: {content}")
            latencies.append(time.perf_counter() - moment)
            answers.append((which, tuple(content["answers"][0]["ids"])))
        connection.close()

    start = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as threads:
        list(threads.map(ask, range(len(clients))))  # raises what one of them raised
    return Load(time.perf_counter() - start, latencies, answers)


def print_loads(loads: dict[str, Load]) -> None:
    table = Table("", "answers", "a second", "of alone", "median, s", "p99, s", "of alone's median")
    alone = np.median(loads["alone"].latencies)
    rates = {name: len(found.latencies) / found.seconds for name, found in loads.items()}
    for name, found in loads.items():
        median, high = np.percentile(found.latencies, (50, 99))
        rate = f"{rates[name]:.2f}", f"{rates[name] / rates['alone']:.2f}"
        table.add_row(name, str(len(found.latencies)), *rate, f"{median:.3f}", f"{high:.3f}", f"{high / alone:.2f}")
    CONSOLE.print(table)


def print_differences(model: Model, texts: list[str], expected, answers) -> None:
    differing = [(which, ids) for which, ids in answers if ids != expected[which]]
    wrong = 0
    for which, ids in sorted(set(differing)):
        given = request_of(texts[which], None, "text", model.job("score").limits)
        gap = gap_at_difference(model, given, expected[which], ids)
        if gap > NEAR_TIE:
            wrong += 1
            CONSOLE.print(f"text {which}: the ids at the first difference are {gap:.2e} nats apart")
    CONSOLE.print(
        f"{len(differing)} of {len(answers)} answers ({len(differing) / len(answers):.2%}) have other ids than alone; "
        f"{wrong} of their {len(set(differing))} kinds differ before a near-tie"
    )


def gap_at_difference(model: Model, given: Request, one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """How much more probable one of the first ids that differ is than the other, nats; infinite where one has none."""
    first = next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    if first is None:
        return float("inf")
    job = model.job("score", batch_size=1)
    targets = (np.array(ids[: first + 1], np.int32) for ids in (one, other))
    scores = [
        answer["score"]
        for window in job.answers_to([Request({}, given.input_ids, target) for target in targets])
        for answer in window
    ]
    return abs(scores[0] - scores[1])


def resident(process: int) -> float:
    """Resident memory of a process, GB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024 / 1e9


def get(address: str, path: str) -> str:
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


if __name__ == "__main__":
    main()
