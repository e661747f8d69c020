"""What the TPU's compiler makes of the step of ByT5-small, for later versions of the code to be compared with.

    python -m benchmarks.tpu_figures              # the rows "small, v5e:2x4" of docs/SCALE.md; two to five minutes each
    python -m benchmarks.tpu_figures --deletions="soft in_graph" --output=soft.json

Writes benchmarks/tpu_compiler/jax_VERSION_libtpu_VERSION.json, which `make test-tpu-compiler` compares with what the
code gives then. Needs libtpu, but no TPU. Figures of another compiler are not comparable, so every pair of versions has
a file of its own. Rows that the file has and that are not compiled now stay in it.
"""

import argparse
import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.scale import DELETIONS, Row, exchanges, run_of
from mrt5_jax.errors import UserError
from mrt5_jax.tools.dry_run import CompiledProgram, RunPlan, compile_step, plan_run
from mrt5_jax.tools.topology import topology_of

FOLDER = Path(__file__).parent / "tpu_compiler"
ROW = Row("small", "v5e:2x4", 32)


def versions() -> dict[str, str]:
    """Versions that decide what is compiled.

    Raises:
        UserError: libtpu is not installed.
    """
    try:
        return {name: metadata.version(name) for name in ("jax", "libtpu")}
    except metadata.PackageNotFoundError:
        raise UserError("libtpu is not installed: pip install -c constraints.txt 'mrt5-jax[tpu]'") from None


def stored_figures() -> Path:
    """The file for the installed versions, whether it is there or not."""
    return FOLDER / f"{'_'.join(f'{name}_{version}' for name, version in versions().items())}.json"


def figures(deletion_and_dispatch: str) -> dict[str, Any]:
    """Compiles one row: multiply-adds of a step by rung, and of each program memory, cost and collectives."""
    run = run_of(ROW, *deletion_and_dispatch.split())
    plan = plan_run(run, topology_of(ROW.topology))
    programs = compile_step(run, plan).programs
    return {
        "multiply_adds": {str(rung): count for rung, count in plan.multiply_adds.items()},
        "programs": {name: program_figures(program, plan) for name, program in programs.items()},
    }


def program_figures(program: CompiledProgram, plan: RunPlan) -> dict[str, Any]:
    """Bytes on a device; the compiler's count of flops, in which a loop's body counts once; its estimate of cycles."""
    return {
        "temporaries": program.memory.temporaries,
        "arguments": program.memory.arguments,
        "total": program.memory.total,
        "flops": program.cost.flops,
        "cycles": program.cycles,
        "runs": program.runs,
        "collectives": [one._asdict() for one in exchanges(program, plan.mesh)],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--deletions", default=",".join(DELETIONS), help="deletion and dispatch, as in benchmarks.scale"
    )
    parser.add_argument("--output", type=Path, help="default: the file for the installed versions")
    arguments = parser.parse_args()
    path = arguments.output or stored_figures()
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}
    for name in arguments.deletions.split(","):
        rows[name] = figures(name)
        made_with = {**versions(), "python": platform.python_version()}
        written = json.dumps({"versions": made_with, "row": ROW._asdict(), "rows": rows}, indent=1)
        path.write_text(written + "\n", encoding="utf-8")
        largest = max(rows[name]["programs"].values(), key=lambda program: program["total"])
        print(f"{name}: {largest['total']:,} bytes, of which temporaries {largest['temporaries']:,}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
