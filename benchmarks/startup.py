"""Time and memory to the first step, and what the time is made of: `python -m benchmarks.startup`.

Every run is `mrt5 train` in a process of its own (`startup_child`): a few steps, soft and hard, and one evaluation.
Each case runs twice, with an empty compilation cache (cold) and with the one that this leaves (warm). The tiny model
has 3 + 2 layers, emb 32 and inputs of 24 bytes; the bench model is that of the other benchmarks; "text" is the tiny one
on span corruption of a text file. Seconds of tracing, lowering and compiling are sums over programs, some of which
compile at the same time: they may add up to more than the whole. GB are the most that the process has held until then.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from benchmarks.bench_model import BATCH, CONFIG, EXECUTION, LENGTH, TARGET
from benchmarks.contest import CONSOLE
from benchmarks.machine import this_machine
from mrt5_jax.moved_names import MOVED, NEW_OWNER

CHILD = Path(__file__).with_name("startup_child.py")
KINDS = ("import", "data", "trace", "lower", "compile", "load")
SMALL = 0.05
"""Programs that take less in all are counted and not listed."""

COMMON = (
    "config.TrainingConfig.hard_probability=0.5",
    "config.TrainingConfig.eval_batches=1",
    "config.ExecutionConfig.log_every=1",
    "config.OptimizerConfig.warmup_steps=0",
)
TINY = ("TRAIN_STEPS=4", "BATCH_SIZE=8", "config.ModelConfig.emb_dim=32", "config.ExecutionConfig.scan_unroll=1")
SHORT = ("INPUT_LENGTH=24", "TARGET_LENGTH=24", "diagnostics.diagnostic_task.num_validation=64")
TEXT = "en.txt"
MODELS = {
    "tiny": (*TINY, *SHORT),
    "text": (*TINY, f"TEXT_FILES={TEXT!r}"),
    "bench": (
        "diagnostics.diagnostic_task.num_validation=64",
        *("TRAIN_STEPS=4", f"INPUT_LENGTH={LENGTH}", f"TARGET_LENGTH={TARGET}", f"BATCH_SIZE={BATCH}"),
        *(
            f"config.ModelConfig.{name}={getattr(CONFIG, name)}"
            for name in (
                *("emb_dim", "num_heads", "head_dim", "mlp_dim"),
                *("num_encoder_layers", "num_decoder_layers"),
            )
        ),
        f"config.ExecutionConfig.scan_unroll={EXECUTION.scan_unroll}",
        f"GATE_LAYER={CONFIG.gate.layer if CONFIG.gate else 0}",
    ),
}
"""Bindings on top of the gin file. Four steps from seed 0 are both soft and hard."""
GIN_FILES = {"text": "runs/pretrain_text.gin"}
"""Where it is not runs/quickstart.gin."""


class Case(NamedTuple):
    model: str
    rungs: int
    dispatch: str

    def bindings(self, model_dir: Path) -> list[str]:
        """Flags of `mrt5 train`."""
        own = (
            f"MODEL_DIR={str(model_dir)!r}",
            f"config.ExecutionConfig.max_rungs={self.rungs}",
            f"config.ExecutionConfig.dispatch={self.dispatch!r}",
        )
        return [f"--gin.{binding}" for binding in (*COMMON, *MODELS[self.model], *own)]


class Program(NamedTuple):
    """Seconds of one program."""

    name: str
    trace: float
    lower: float
    compile: float
    from_cache: bool


class Startup(NamedTuple):
    """What one run took."""

    case: Case
    cache: str
    first_step: float
    """Seconds from the process's start until the first step's metrics are written."""
    total: float
    memory: float
    """GB held at most until then."""
    seconds: dict[str, float]
    """By kind."""
    programs: list[Program]

    def row(self) -> dict[str, Any]:
        """For JSON."""
        programs = [program._asdict() for program in self.programs]
        return {**self._asdict(), "case": self.case._asdict(), "programs": programs}


def measure(case: Case, python: str, folder: Path) -> list[Startup]:
    """A case cold and then warm."""
    return [_run(case, cache, python, folder) for cache in ("cold", "warm")]


def _known_to(python: str, flags: Sequence[str], folder: Path) -> list[str]:
    """The flags as the other checkout knows them, which may be older than ExecutionConfig."""
    probe = f"import mrt5_jax.config as config; raise SystemExit(not hasattr(config, {NEW_OWNER!r}))"
    if subprocess.run([python, "-c", probe], cwd=folder, check=False).returncode == 0:  # not this checkout's package
        return list(flags)
    old = {f"--gin.config.{NEW_OWNER}.{new}": f"--gin.config.{owner}.{field}" for (owner, field), new in MOVED.items()}
    parts = (flag.partition("=") for flag in flags)
    return [f"{old.get(name, name)}={value}" for name, _, value in parts]


def _run(case: Case, cache: str, python: str, folder: Path) -> Startup:
    model_dir, spans = folder / cache, folder / f"{cache}.json"
    flags = _known_to(python, case.bindings(model_dir), folder)
    gin_file = GIN_FILES.get(case.model, "runs/quickstart.gin")
    command = [python, str(CHILD), str(spans), "train", f"--gin_file={gin_file}", *flags]
    (folder / TEXT).write_text("".join(f"line {number} of some text\n" for number in range(2000)), encoding="utf-8")
    environment = {"JAX_PLATFORMS": "cpu"} | os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "programs")}
    with (folder / f"{cache}.log").open("w+", encoding="utf-8") as log:
        start = time.time()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        metrics, first_step, memory = model_dir / "metrics.jsonl", None, 0.0
        while process.poll() is None:
            if first_step is None and metrics.exists() and metrics.stat().st_size:
                first_step, memory = time.time() - start, _most_memory(process.pid)
            time.sleep(0.02)
        total = time.time() - start
        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{log.read()[-2000:]}")
    found = json.loads(spans.read_text(encoding="utf-8"))["spans"]
    seconds = {kind: sum(span["end"] - span["start"] for span in found if span["kind"] == kind) for kind in KINDS}
    return Startup(case, cache, first_step or total, total, memory, seconds, _programs(found))


def _most_memory(process: int) -> float:
    """GB that it has held at most; 0 where the system does not say."""
    status = Path(f"/proc/{process}/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM:")), 0.0)


def _programs(spans: Sequence[dict[str, Any]]) -> list[Program]:
    """The k-th compilation of a name belongs to its k-th tracing and lowering: compilers start in that order."""
    by_name: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for span in sorted(spans, key=lambda span: span["start"]):
        if span["kind"] in ("trace", "lower", "compile", "load"):
            name = span["name"].removeprefix("jit(").removesuffix(")")
            by_name[name]["compile" if span["kind"] == "load" else span["kind"]].append(span)
    programs = []
    for name, kinds in by_name.items():
        for parts in itertools.zip_longest(kinds["trace"], kinds["lower"], kinds["compile"]):
            trace, lower, compiled = (0.0 if span is None else span["end"] - span["start"] for span in parts)
            programs.append(Program(name, trace, lower, compiled, bool(parts[2]) and parts[2]["kind"] == "load"))
    return programs


def show(startups: Sequence[Startup], details: bool) -> None:
    """A row a run and, in detail, a row a program."""
    table = Table(
        "", "cache", "imports", "data", "tracing", "lowering", "compiling", "from cache", "first step", "GB", "all"
    )
    for startup in startups:
        seconds = [f"{startup.seconds[kind]:.1f}" for kind in KINDS]
        case = startup.case
        name = f"{case.model}, {case.rungs} rung{'s' if case.rungs > 1 else ''}, {case.dispatch}"
        first_step = f"{startup.first_step:.1f}", f"{startup.memory:.2f}"
        table.add_row(name, startup.cache, *seconds, *first_step, f"{startup.total:.1f}")
    CONSOLE.print(table)
    if details:
        for startup in startups:
            _show_programs(startup)
    CONSOLE.print(f"seconds. {this_machine()}")


def _show_programs(startup: Startup) -> None:
    title = f"{startup.case.model}, {startup.case.rungs} rungs, {startup.case.dispatch}, {startup.cache}"
    table = Table("program", "tracing", "lowering", "compiling", title=title)
    small = 0
    for program in startup.programs:
        if program.trace + program.lower + program.compile < SMALL:
            small += 1
            continue
        compiled = f"{program.compile:.2f}{' (cache)' if program.from_cache else ''}"
        table.add_row(program.name, f"{program.trace:.2f}", f"{program.lower:.2f}", compiled)
    CONSOLE.print(table)
    CONSOLE.print(f"and {small} programs below {SMALL} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rungs", nargs="+", type=int, default=[1, 3, 8], help="default: 1 3 8")
    parser.add_argument("--dispatch", nargs="+", choices=("in_graph", "host"), default=["in_graph", "host"])
    parser.add_argument("--python", default=sys.executable, help="of another checkout's environment, to compare with")
    parser.add_argument("--programs", action="store_true", help="lists every program")
    parser.add_argument("--json", metavar="FILE", help="writes the figures here as well")
    args = parser.parse_args()
    startups = []
    for chosen in itertools.product(args.models, args.rungs, args.dispatch):
        with tempfile.TemporaryDirectory() as folder:
            startups += measure(Case(*chosen), args.python, Path(folder))
    show(startups, args.programs)
    if args.json:
        content = {"machine": this_machine()._asdict(), "runs": [startup.row() for startup in startups]}
        Path(args.json).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        CONSOLE.print(f"figures: {args.json}")


if __name__ == "__main__":
    main()
