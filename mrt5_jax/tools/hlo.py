"""The text of an optimized HLO module, read as far as costs need it: instructions, and who calls whom how often.

    program = parse_hlo(jax.jit(step).lower(...).compile().as_text())

What is counted in it is in `collectives` and `cycles`; the text of a large program is megabytes, so parse it once.
"""

import dataclasses
import math
import re

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


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a computation."""

    name: str
    opcode: str
    bytes: int
    """Of the result."""
    text: str
    """All behind the `=`."""

    @property
    def operands(self) -> list[str]:
        """Names of the instructions whose results go in."""
        inside = self.text.partition(f"{self.opcode}(")[2].partition(")")[0]
        return re.findall(r"%([\w.-]+)", inside)

    @property
    def called(self) -> list[str]:
        """The computations that it calls, but for the branches of a conditional and the condition of a loop."""
        found = _CALLED.findall(self.text)
        return [name.strip().removeprefix("%") for names in found for name in names.split(",")]

    @property
    def branches(self) -> list[str]:
        """Of a conditional: the computations of which one runs."""
        if listed := _BRANCHES.search(self.text):
            return [name.strip().removeprefix("%") for name in listed[1].split(",")]
        two = _TWO_BRANCHES.search(self.text)
        return [two[1], two[2]] if two else []


@dataclasses.dataclass(frozen=True)
class HloModule:
    """A module."""

    computations: dict[str, list[Instruction]]
    entry: str
    """The computation that runs first."""

    def turns(self, instruction: Instruction) -> int:
        """Returns how often an instruction runs what it calls: once, but for loops.

        Of a loop, as XLA notes it or, where a backend drops that, by the bound of a condition `counter < constant`:
        JAX's scans count from 0 by 1. Once where neither says it.
        """
        if instruction.opcode != "while":
            return 1
        if noted := _TRIP_COUNT.search(instruction.text):
            return int(noted[1])
        condition = _CONDITION.search(instruction.text)
        inside = self.computations.get(condition[1], []) if condition else []
        constants = {one.name: int(bound[1]) for one in inside if (bound := _BOUND.search(one.text))}
        for one in inside:
            if one.opcode == "compare" and "direction=LT" in one.text:
                return next((constants[name] for name in one.operands if name in constants), 1)
        return 1


def parse_hlo(text: str) -> HloModule:
    """Parses the text of a module.

    Args:
        text: `compiled.as_text()`.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, list[Instruction]] = {}
    current, entry = "", ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = header[1]
            computations[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current and (instruction := _INSTRUCTION.match(line)):
            computations[current].append(_instruction(instruction[1], instruction[2]))
    if not entry:
        raise ValueError("no ENTRY computation: not the text of an HLO module")
    return HloModule(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    opcode = _OPCODE.search(text)
    if not opcode:
        return Instruction(name, "", 0, text)
    return Instruction(name, opcode[1], _size(text[: opcode.start(1)]), text)


def _size(shape: str) -> int:
    """Bytes of all arrays in a shape, tuples included; a bit width below eight rounds up."""
    return sum(
        math.prod(int(size) for size in sizes.split(",") if size) * _element_bytes(dtype)
        for dtype, sizes in _ARRAY.findall(shape)
    )


def _element_bytes(dtype: str) -> int:
    known = _BYTES.get(dtype)
    return -(-int(re.findall(r"\d+", dtype)[0]) // 8) if known is None else known
