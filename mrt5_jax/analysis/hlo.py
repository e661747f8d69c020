"""Which collectives a compiled program has, read from the text of its optimized HLO.

    compiled = jax.jit(step).lower(...).compile()
    for collective in collectives(compiled.as_text()): ...

Loops are counted as often as XLA knows that they run. Branches of a conditional are told apart, since one of them runs.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_BYTES = {"pred": 1, "token": 0, "bf16": 2}
"""Of an element; of other types the digits in the name say it (f32, s8, u64, c128, f8e4m3fn)."""
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
_ARRAY = re.compile(r"\b(pred|token|bf16|[sufc]\d+\w*)\[([\d,]*)\]")
_OPCODE = re.compile(r"(?:^|[\s)}])([a-z][a-z0-9-]*)\(")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|called_computations)=\{?(%?[\w.-]+(?:, ?%?[\w.-]+)*)\}?")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TWO_BRANCHES = re.compile(r"true_computation=%?([\w.-]+), false_computation=%?([\w.-]+)")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
_BOUND = re.compile(r"\bconstant\((\d+)\)")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_IOTA_GROUPS = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{]*)\))?[^{]*\{([^}]*)\}")
_IOTA = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH_AXIS = re.compile(r"'([^']+)'=(\d+)")
_GROUP_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
_PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")


class Collective(NamedTuple):
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


class _Instruction(NamedTuple):
    name: str
    opcode: str
    bytes: int
    """Of the result."""
    text: str


def collectives(hlo: str) -> list[Collective]:
    """The collectives of a module's entry computation and of everything it calls.

    Args:
        hlo: `compiled.as_text()`.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations, entry = _parse(hlo)
    return list(_walk(computations, entry, times=1, branch=""))


def mesh_axes(group: tuple[int, ...], shape: dict[str, int]) -> tuple[str, ...]:
    """The axes of a mesh (name -> size, in order) that the devices of a group differ in."""
    if not group:
        return tuple(name for name, size in shape.items() if size > 1)
    places = np.array(np.unravel_index(np.array(group), tuple(shape.values())))
    return tuple(name for name, along in zip(shape, places, strict=True) if len(set(along.tolist())) > 1)


def _parse(hlo: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    current, entry = "", ""
    for line in hlo.splitlines():
        if header := _COMPUTATION.match(line):
            current = header[1]
            computations[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current and (instruction := _INSTRUCTION.match(line)):
            computations[current].append(_instruction(instruction[1], instruction[2]))
    if not entry:
        raise ValueError("no ENTRY computation: not the text of an HLO module")
    return computations, entry


def _instruction(name: str, text: str) -> _Instruction:
    opcode = _OPCODE.search(text)
    if not opcode:
        return _Instruction(name, "", 0, text)
    return _Instruction(name, opcode[1], _size(text[: opcode.start(1)]), text)


def _size(shape: str) -> int:
    """Bytes of all arrays in a shape, tuples included; a bit width below eight rounds up."""
    return sum(
        math.prod(int(size) for size in sizes.split(",") if size) * _element_bytes(dtype)
        for dtype, sizes in _ARRAY.findall(shape)
    )


def _element_bytes(dtype: str) -> int:
    known = _BYTES.get(dtype)
    return -(-int(re.findall(r"\d+", dtype)[0]) // 8) if known is None else known


def _walk(computations: dict[str, list[_Instruction]], name: str, times: int, branch: str) -> Iterator[Collective]:
    sizes = {instruction.name: instruction.bytes for instruction in computations.get(name, [])}
    for instruction in computations.get(name, []):
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS:
            moved = _moved(instruction, sizes)
            yield Collective(kind, moved, times, branch, _group(instruction.text))
            continue
        if instruction.opcode == "conditional":
            for index, called in enumerate(_branches(instruction.text)):
                inside = f"{branch}{' ' if branch else ''}{instruction.name}/{index}"
                yield from _walk(computations, called, times, inside)
            continue
        turns = _turns(instruction.text, computations) if instruction.opcode == "while" else 1
        for called in _called(instruction.text):
            yield from _walk(computations, called, times * turns, branch)


def _turns(loop: str, computations: dict[str, list[_Instruction]]) -> int:
    """Of a loop: as XLA notes it or, where a backend drops that, by the bound of a condition `counter < constant`.

    JAX's scans count from 0 by 1.
    """
    if noted := _TRIP_COUNT.search(loop):
        return int(noted[1])
    condition = _CONDITION.search(loop)
    instructions = computations.get(condition[1], []) if condition else []
    constants = {one.name: int(bound[1]) for one in instructions if (bound := _BOUND.search(one.text))}
    for one in instructions:
        if one.opcode == "compare" and "direction=LT" in one.text:
            return next((constants[name] for name in _operands(one) if name in constants), 1)
    return 1


def _moved(instruction: _Instruction, sizes: dict[str, int]) -> int:
    """The larger of what goes in and what comes out; the result of a -start may hold both."""
    given = sum(sizes.get(name, 0) for name in _operands(instruction))
    result = instruction.bytes
    if instruction.opcode.endswith("-start") and result > given:
        result -= given
    return max(given, result)


def _operands(instruction: _Instruction) -> list[str]:
    inside = instruction.text.partition(f"{instruction.opcode}(")[2].partition(")")[0]
    return re.findall(r"%([\w.-]+)", inside)


def _called(text: str) -> list[str]:
    found = _CALLED.findall(text)
    return [name.strip().removeprefix("%") for names in found for name in names.split(",")]


def _branches(text: str) -> list[str]:
    if listed := _BRANCHES.search(text):
        return [name.strip().removeprefix("%") for name in listed[1].split(",")]
    two = _TWO_BRANCHES.search(text)
    return [two[1], two[2]] if two else []


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
