"""A dry run as text; every line is a comment to gin, so that the output remains a configuration that can be used."""

import itertools
from collections.abc import Iterator

from mrt5_jax.parallel.peaks import clock_rate, peak_multiply_adds
from mrt5_jax.tools.collectives import Collective, mesh_axes
from mrt5_jax.tools.dry_run import Compilation, CompiledProgram, RunPlan, axes_in_words


def plan_report(plan: RunPlan) -> str:
    """Reports mesh, sharding of every parameter, bytes on a device, multiply-adds at every rung."""
    return _commented(_plan_lines(plan))


def compilation_report(compilation: Compilation, plan: RunPlan) -> str:
    """Reports memory, the compiler's estimate, and the collectives by branch, kind and mesh axes."""
    return _commented(_compilation_lines(compilation, plan))


def _plan_lines(plan: RunPlan) -> Iterator[str]:
    tokens = plan.batch["encoder_input_tokens"]
    targets = plan.batch["decoder_target_tokens"]
    assert tokens.sharding is not None
    rows = tokens.sharding.shard_shape(tokens.shape)[0]
    yield f"mesh {axes_in_words(plan.mesh.shape)} over {plan.topology.description}"
    yield f"a device has {rows} of {tokens.shape[0]} rows of {tokens.shape[1]} inputs and {targets.shape[1]} targets"
    yield ""
    header = ("parameter", "shape", "type", "sharded over", "MB a device")
    yield from _table(
        [
            header,
            *(
                (place.name, str(list(place.shape)), place.dtype, place.sharding or "-", _mb(place.bytes_on_a_device))
                for place in plan.parameters
            ),
        ]
    )
    yield ""
    held = ", ".join(f"{name} {_mb(size)} MB" for name, size in plan.bytes_on_a_device.items())
    yield f"bytes on a device: {held}; together {_mb(sum(plan.bytes_on_a_device.values()))} MB"
    yield "multiply-adds of a step, forward and backward, on all devices:"
    full = max(plan.multiply_adds.values())
    for rung, count in plan.multiply_adds.items():
        yield f"  at length {rung}: {count:.3e} ({count / full:.1%}){_at_best(count, plan)}"


def _at_best(count: int, plan: RunPlan) -> str:
    device = plan.mesh.devices.flat[0]
    peak = None if device.platform == "cpu" else peak_multiply_adds(device)
    return "" if peak is None else f", {1000 * count / (plan.mesh.size * peak):.1f} ms at the matmul peak"


def _compilation_lines(compilation: Compilation, plan: RunPlan) -> Iterator[str]:
    yield f"compiled in {compilation.seconds:.1f} s; on a device:"
    for name, program in compilation.programs.items():
        memory, cost = program.memory, program.cost
        yield (
            f"  {name}: {_mb(memory.total)} MB: arguments {_mb(memory.arguments)}, temporaries "
            f"{_mb(memory.temporaries)}, outputs {_mb(memory.outputs)} of which {_mb(memory.aliased)} in the place of "
            f"arguments, code {_mb(memory.code)}"
        )
        if cost.flops is not None:
            yield (
                f"    the compiler's count, the body of a loop once: {cost.flops:.3e} flops, "
                f"{_mb(cost.bytes_accessed or 0)} MB moved"
            )
        if program.cycles is not None:
            yield f"    the compiler's estimate: {_time(program.cycles, plan)}, without exchanges"
    if len(compilation.programs) > 1:
        for name, cycles in compilation.step_cycles.items():
            yield f"  {name}, all its programs: {_time(cycles, plan)}, without exchanges"
    rows = [row for name, program in compilation.programs.items() for row in _collective_rows(name, program, plan)]
    if not rows:
        yield "no collectives"
        return
    yield "collectives:"
    yield from _table([("kind", "over", "times", "MB a device", "where"), *rows])


def _time(cycles: int, plan: RunPlan) -> str:
    """Millions of cycles and, where the clock is known, milliseconds."""
    rate = clock_rate(plan.mesh.devices.flat[0])
    return f"{cycles / 1e6:,.2f} million cycles{f' ({1000 * cycles / rate:.2f} ms)' if rate else ''}"


def _collective_rows(name: str, program: CompiledProgram, plan: RunPlan) -> Iterator[tuple[str, ...]]:
    def key(collective: Collective) -> tuple[str, str, str]:
        axes = "+".join(mesh_axes(collective.group, dict(plan.mesh.shape)))
        return collective.branch, collective.kind, axes

    for (branch, kind, axes), group in itertools.groupby(sorted(program.collectives, key=key), key=key):
        alike = list(group)
        moved = sum(collective.bytes * collective.times for collective in alike)
        times = sum(collective.times for collective in alike)
        yield kind, axes or "-", str(times), _mb(moved), f"{name}, branch {branch}" if branch else f"{name}, always"


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _mb(size: int | float) -> str:
    return f"{size / 1e6:,.1f}" if size >= 1e5 or size == 0 else f"{size / 1e6:.4f}"


def _commented(lines: Iterator[str]) -> str:
    return "\n".join(f"# {line}".rstrip() for line in lines)
