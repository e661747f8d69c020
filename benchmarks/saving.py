"""How long steps wait for storage, and how long a save takes: `python -m benchmarks.saving PLACE [PLACE ...]`.

    python -m benchmarks.saving /tmp/saving gs://BUCKET/saving

A place is a new folder, here or in a bucket. In each of them the model of the other benchmarks is trained on text of
random words, 1024 -> 189 in batches of 8, with a report every step and a save every few; how long its steps wait for
storage is by the run's own clock. Then its state is saved in the places in turns, each time until it is there.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import jax

from benchmarks.bench_model import CONFIG, EXECUTION
from benchmarks.data import INPUT_LENGTH, WARM_UP, Measured, data_config, print_table, write_corpus
from mrt5_jax.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainingConfig
from mrt5_jax.runs.checkpoints import Checkpoints
from mrt5_jax.runs.files import read_bytes
from mrt5_jax.tasks.span_corruption import text_task
from mrt5_jax.training.loop import train
from mrt5_jax.training.state import TrainState


def measure_waiting(place: str, task: str, steps: int, every: int) -> tuple[TrainState, list[Measured]]:
    run = RunConfig(
        model_dir=f"{place}/run",
        model=CONFIG,
        execution=dataclasses.replace(EXECUTION, log_every=1),
        data=data_config(task),
        training=TrainingConfig(num_steps=WARM_UP + steps, eval_every=WARM_UP + steps, eval_batches=1),
        checkpoints=CheckpointConfig(every=every),
        evaluation=EvaluationConfig(deletions=("none",)),
    )
    state = train(run)
    lines = [json.loads(line) for line in read_bytes(f"{place}/run/timing.jsonl").splitlines()]
    counted = [line for line in lines if "seconds_per_step" in line][WARM_UP:]
    seconds = [line["seconds_per_step"] for line in counted]
    waiting = sum(line["storage_seconds_per_step"] for line in counted)
    return state, [
        Measured(f"training step, {place}", "s", seconds),
        Measured(f"of all steps waiting for storage, {place}", "%", [100 * waiting / sum(seconds)]),
    ]


def measure_saves(states: Mapping[str, TrainState], rounds: int) -> list[Measured]:
    found: dict[str, list[float]] = {place: [] for place in states}
    for number in range(rounds + 1):
        for place, state in states.items():
            with Checkpoints(f"{place}/saves", CheckpointConfig(keep=1), seed=0) as checkpoints:
                begin = time.perf_counter()
                checkpoints.save(state._replace(step=state.step + number), {})
                checkpoints.wait()
                if number:  # the first one warms up
                    found[place].append(time.perf_counter() - begin)
    return [Measured(f"save, {place}", "s", seconds) for place, seconds in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", metavar="PLACE")
    parser.add_argument("--steps", type=int, default=20, help="that are counted (default: 20)")
    parser.add_argument("--every", type=int, default=10, help="steps from save to save (default: 10)")
    parser.add_argument("--rounds", type=int, default=5, help="saves in each place (default: 5)")
    args = parser.parse_args()
    states, measured = {}, []
    with tempfile.TemporaryDirectory() as folder:
        task = text_task(write_corpus(Path(folder)), input_length=INPUT_LENGTH)
        for place in args.places:
            states[place], waiting = measure_waiting(place, task, args.steps, args.every)
            measured += waiting
    measured += measure_saves(states, args.rounds)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(next(iter(states.values()))))
    print(f"a state of {size / 1e6:,.0f} MB; devices: {jax.devices()}")
    print_table(measured)


if __name__ == "__main__":
    main()
