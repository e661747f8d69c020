"""A step's estimate from those of its programs; what a compiler says of whole runs is in tests/cli/test_dry_run.py."""

from mrt5_jax.tools.compiled import CostEstimate, Memory
from mrt5_jax.tools.dry_run import Compilation, CompiledProgram


def program(cycles: int | None, runs: int = 1) -> CompiledProgram:
    return CompiledProgram(Memory(1, 1, 0, 1, 1), CostEstimate(None, None), cycles, [], runs)


def test_a_step_of_several_programs_is_added_up_at_each_length() -> None:
    """Three microbatches, each in two chunks."""
    programs = {
        "begin": program(1, runs=3),
        "rest at 8": program(10, runs=6),
        "rest at 16": program(20, runs=6),
        "finish": program(200, runs=3),
        "update": program(5000),
    }
    always = 3 * 1 + 3 * 200 + 5000
    assert Compilation(programs, 1.0).step_cycles == {"step at 8": always + 6 * 10, "step at 16": always + 6 * 20}


def test_a_step_of_one_program_costs_what_that_costs() -> None:
    assert Compilation({"step": program(7)}, 1.0).step_cycles == {"step": 7}
    assert Compilation({"step": program(None)}, 1.0).step_cycles == {}
