"""What the compiler says of a program: memory, and its own estimate of the cost."""

import dataclasses
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    arguments: int
    outputs: int
    aliased: int
    """Outputs that lie in the place of donated arguments."""
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """What the program needs while it runs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class CostEstimate:
    """The compiler's estimate for one device; None where it makes none.

    XLA counts the body of a loop once, so a program with scanned layers is underestimated: compare only programs with
    the same loops, or see `cycles.estimated_cycles`.
    """

    flops: float | None
    bytes_accessed: float | None


def memory_of(compiled: jax.stages.Compiled) -> Memory:
    """Returns the memory of a program compiled ahead of time, for any backend."""
    analysis: Any = compiled.memory_analysis()
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        outputs=analysis.output_size_in_bytes,
        aliased=analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )


def cost_of(compiled: jax.stages.Compiled) -> CostEstimate:
    """Returns the cost estimate of a program compiled ahead of time."""
    analysis: Any = compiled.cost_analysis() or {}
    return CostEstimate(analysis.get("flops"), analysis.get("bytes accessed"))
