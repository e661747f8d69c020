"""The table of docs/SCALE.md: training steps compiled for TPU slices that are not here.

    python -m benchmarks.scale                # every row; five to ten minutes each on two busy cores
    python -m benchmarks.scale --only=small

Paper's lengths (1024 inputs, 189 targets), bfloat16 activations, every layer rematerialised. "saturated capacity" runs
at the one length 512: what a step costs when half of the positions are deleted. Of several programs (host dispatch) the
line shows the largest. Million cycles are the compiler's estimate of a whole step at the length that takes most,
without exchanges.
"""

import argparse
import sys
from collections import Counter
from typing import NamedTuple

from jax.sharding import Mesh

from mrt5_jax.cli import gin_setup
from mrt5_jax.config import RunConfig
from mrt5_jax.errors import UserError
from mrt5_jax.parallel.peaks import clock_rate
from mrt5_jax.tools.collectives import mesh_axes
from mrt5_jax.tools.dry_run import Compilation, CompiledProgram, RunPlan, compile_step, plan_run
from mrt5_jax.tools.topology import topology_of


class Row(NamedTuple):
    model: str
    topology: str
    rows: int
    """Of the whole batch."""
    fsdp: int = 1
    tensor: int = 1
    microbatches: int = 1
    dtype: str = "bfloat16"
    """Of activations."""


ROWS = (
    Row("small", "v5e:4x8", 1024),
    Row("small", "v5e:16x16", 1024),
    Row("base", "v5e:8x8", 1024, fsdp=4),
    Row("xl", "v5p:4x4x4", 1024, fsdp=16),
    Row("xl", "v5e:16x16", 1024, fsdp=16),
    Row("small", "v5e:2x4", 32),
    Row("small", "v5e:2x4", 32, dtype="float32"),
    Row("small", "local", 4, dtype="float32"),
)

DELETIONS = ("soft in_graph", "saturated in_graph", "saturated capacity", "saturated host")
"""Deletion and dispatch."""


def run_of(row: Row, deletion: str, dispatch: str) -> RunConfig:
    """The paper's recipe but for the text."""
    bindings = {
        "MODEL_DIR": "'unused'",
        "INPUT_LENGTH": 1024,
        "TARGET_LENGTH": 189,
        "BATCH_SIZE": row.rows,
        "DROPOUT_RATE": 0.1,
        "config.ModelConfig.dtype": repr(row.dtype),
        "config.ExecutionConfig.remat": "'full'",
        "config.ExecutionConfig.scan_unroll": 1,
        "config.TrainingConfig.deletion": repr(deletion),
        "config.ExecutionConfig.microbatches": row.microbatches,
        "config.ExecutionConfig.max_rungs": 2,
        "config.MeshConfig.fsdp": row.fsdp,
        "config.MeshConfig.tensor": row.tensor,
    }
    if dispatch == "capacity":
        bindings["config.CompactionConfig.capacity"] = 0.5
    else:
        bindings["config.ExecutionConfig.dispatch"] = repr(dispatch)
    files = ["runs/quickstart.gin", f"models/mrt5_{row.model}.gin"]
    return gin_setup.resolve(files, bindings=[f"{name}={value}" for name, value in bindings.items()]).run


class Exchange(NamedTuple):
    """Collectives of one kind over the same mesh axes, as one device sees them in a run of the program."""

    kind: str
    axes: str
    """As "data+fsdp"."""
    branch: str
    """Numbers of the branches they are in, outermost first, as "1"; empty: they always run."""
    count: int
    bytes: int


def exchanges(program: CompiledProgram, mesh: Mesh) -> list[Exchange]:
    """Sums of a compiled program's collectives by kind, axes and branch."""
    counts: Counter[tuple[str, str, str]] = Counter()
    moved: Counter[tuple[str, str, str]] = Counter()
    for one in program.collectives:
        axes = "+".join(mesh_axes(one.group, dict(mesh.shape)))
        branch = " ".join(part.rpartition("/")[2] for part in one.branch.split())
        counts[one.kind, axes, branch] += one.times
        moved[one.kind, axes, branch] += one.times * one.bytes
    return [Exchange(*key, count, moved[key]) for key, count in sorted(counts.items())]


def exchanged(compilation: Compilation, plan: RunPlan) -> str:
    """Collectives that always run, by kind and axes: times and MB on a device; then how much the branches add."""
    always, branches = [], Counter()
    for one in exchanges(compilation.largest, plan.mesh):
        if one.branch:
            branches[one.branch] += one.bytes
        else:
            always.append(f"{one.count} {one.kind} {one.axes} {one.bytes / 1e6:,.0f} MB")
    if branches:
        least, most = min(branches.values()), max(branches.values())
        always.append(f"in a branch {least / 1e6:,.0f} to {most / 1e6:,.0f} MB")
    return "; ".join(always)


def estimated(compilation: Compilation, plan: RunPlan) -> str:
    """Of a step at the length that takes most: million cycles and, where the clock is known, milliseconds."""
    cycles = max(compilation.step_cycles.values(), default=None)
    if cycles is None:
        return "-"
    rate = clock_rate(plan.mesh.devices.flat[0])
    return f"{cycles / 1e6:,.1f}{f', {1000 * cycles / rate:,.1f} ms' if rate else ''}"


def measured(row: Row, name: str) -> str:
    """A line of the table."""
    run = run_of(row, *name.split())
    plan = plan_run(run, topology_of(row.topology))
    sizes = "x".join(str(size) for size in plan.mesh.shape.values())
    start = f"| {row.model}, {row.dtype} | {row.topology} | {sizes} | {row.rows // plan.mesh.size} | {name} |"
    try:
        compilation = compile_step(run, plan)
    except UserError as error:
        return f"{start} {error} | | | | | |"
    memory = compilation.largest.memory
    held = sum(plan.bytes_on_a_device.values())
    return (
        f"{start} {memory.total / 1e9:.2f} | {memory.temporaries / 1e9:.2f} | "
        f"{held / 1e9:.2f}, {memory.arguments / 1e9:.2f} | "
        f"{exchanged(compilation, plan)} | {compilation.seconds:.0f} | {estimated(compilation, plan)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="rows whose model or slice contains this")
    parser.add_argument("--deletions", default=",".join(DELETIONS))
    arguments = parser.parse_args()
    columns = ["model, activations", "slice", "mesh", "rows a chip", "deletion", "GB a chip", "temporary"]
    columns += ["ours, arguments", "exchanged", "s", "million cycles"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in ROWS:
        if arguments.only in f"{row.model} {row.topology}":
            for name in arguments.deletions.split(","):
                print(measured(row, name), flush=True)


if __name__ == "__main__":
    sys.exit(main())
