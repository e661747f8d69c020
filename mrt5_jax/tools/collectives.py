"""Which collectives a compiled program has.

    for collective in collectives(parse_hlo(compiled.as_text())): ...

Loops are counted as often as XLA knows that they run. Branches of a conditional are told apart, since one of them runs.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

from mrt5_jax.tools.hlo import HloModule, Instruction

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_IOTA_GROUPS = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{]*)\))?[^{]*\{([^}]*)\}")
_IOTA = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH_AXIS = re.compile(r"'([^']+)'=(\d+)")
_GROUP_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
_PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program, as one device sees it."""

    kind: str
    """One of KINDS."""
    bytes: int
    """Of its larger side, input or output, on one device."""
    times: int
    """How often it runs in a run of the program; a loop of unknown length counts once."""
    branch: str
    """"conditional/index" of the branches that it is in, outermost first; empty where it always runs."""
    group: tuple[int, ...]
    """The devices that the first of them exchanges with, by their place in the mesh; empty: all."""


def collectives(program: HloModule) -> list[Collective]:
    """Finds the collectives of a program's entry computation and of everything it calls."""
    return list(_walk(program, program.entry, times=1, branch=""))


def mesh_axes(group: tuple[int, ...], shape: dict[str, int]) -> tuple[str, ...]:
    """Returns the axes of a mesh (name -> size, in order) that the devices of a group differ in."""
    if not group:
        return tuple(name for name, size in shape.items() if size > 1)
    places = np.array(np.unravel_index(np.array(group), tuple(shape.values())))
    return tuple(name for name, along in zip(shape, places, strict=True) if len(set(along.tolist())) > 1)


def _walk(program: HloModule, name: str, times: int, branch: str) -> Iterator[Collective]:
    instructions = program.computations.get(name, [])
    sizes = {instruction.name: instruction.bytes for instruction in instructions}
    for instruction in instructions:
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS:
            yield Collective(kind, _moved(instruction, sizes), times, branch, _group(instruction.text))
            continue
        for index, called in enumerate(instruction.branches):
            inside = f"{branch}{' ' if branch else ''}{instruction.name}/{index}"
            yield from _walk(program, called, times, inside)
        for called in instruction.called:
            yield from _walk(program, called, times * program.turns(instruction), branch)


def _moved(instruction: Instruction, sizes: dict[str, int]) -> int:
    """The larger of what goes in and what comes out; the result of a -start may hold both."""
    given = sum(sizes.get(name, 0) for name in instruction.operands)
    result = instruction.bytes
    if instruction.opcode.endswith("-start") and result > given:
        result -= given
    return max(given, result)


def _group(text: str) -> tuple[int, ...]:
    if listed := _LISTED_GROUPS.search(text):
        return tuple(int(device) for device in listed[1].split(","))
    if iota := _IOTA_GROUPS.search(text):
        return tuple(_devices(iota[3]).reshape(int(iota[1]), int(iota[2]))[0].tolist())
    if mesh := _MESH_GROUPS.search(text):
        return _group_of_mesh_axes(mesh[1], mesh[2], mesh[3])
    pair = _PAIRS.search(text)
    return (int(pair[1]), int(pair[2])) if pair else ()


def _devices(written: str) -> np.ndarray:
    """Device numbers in order, from "[4,2]T(1,0)" (0 to 7 in that shape, transposed) or from a list "0,4,1,5"."""
    iota = _IOTA.search(written)
    if not iota:
        return np.array([int(device) for device in written.split(",")])
    sizes = [int(size) for size in iota[1].split(",")]
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    return devices.transpose([int(axis) for axis in iota[2].split(",")]) if iota[2] else devices


def _group_of_mesh_axes(mesh: str, order: str | None, axes: str) -> tuple[int, ...]:
    """The group of the mesh's first device, from "'a'=2,'b'=4" and the axes it spans; "'b':(2)2" is part of b.

    Args:
        order: the devices in the mesh's order, see `_devices`; None: 0, 1, 2, ...
    """
    sizes = {name: int(size) for name, size in _MESH_AXIS.findall(mesh)}
    along = {name: [0] for name in sizes}
    for name, before, size in _GROUP_AXIS.findall(axes):
        split, count = (int(before), int(size)) if size else (1, sizes[name])
        stride = sizes[name] // (split * count)
        along[name] = [at * stride for at in range(count)]
    devices = np.arange(math.prod(sizes.values())) if order is None else _devices(order)
    return tuple(devices.reshape(tuple(sizes.values()))[np.ix_(*along.values())].reshape(-1).tolist())
