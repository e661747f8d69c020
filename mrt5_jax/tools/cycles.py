"""How long the TPU's compiler thinks that a program takes.

    cycles = estimated_cycles(parse_hlo(compiled.as_text()))

The compiler notes an estimate in cycles of the chip's clock at fusions, copies and the like, for one run of each. Its
`cost_analysis()` counts a loop's body once; here it counts as often as the loop turns.
"""

import re

from mrt5_jax.tools.hlo import HloModule, Instruction

_ESTIMATE = re.compile(r'"estimated_cycles":"(\d+)"')
_NO_ESTIMATE = 2**63 - 1
"""What the compiler writes at some instructions."""


def estimated_cycles(program: HloModule) -> int | None:
    """Adds up the cycles of one device, one instruction after another; None where none are noted (CPUs, GPUs).

    A loop counts as often as XLA knows that it turns, a conditional as much as its longest branch. Collectives, custom
    calls, sorts, gathers and scatters have no estimate, so this is what the device computes, without exchanges.
    """
    return _cycles(program, program.entry) or None


def _cycles(program: HloModule, name: str) -> int:
    return sum(_cycles_of(program, instruction) for instruction in program.computations.get(name, []))


def _cycles_of(program: HloModule, instruction: Instruction) -> int:
    if noted := _ESTIMATE.search(instruction.text):
        return 0 if int(noted[1]) == _NO_ESTIMATE else int(noted[1])
    if instruction.opcode == "fusion":  # noted of the whole, if at all
        return 0
    branches = max((_cycles(program, called) for called in instruction.branches), default=0)
    return branches + program.turns(instruction) * sum(_cycles(program, called) for called in instruction.called)
