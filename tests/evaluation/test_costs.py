"""Runtime and multiply-adds of records: what was clocked stands for the examples that it is of, and survives files."""

import json
from pathlib import Path

import pytest

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.comparison import compare, read_evaluations
from mrt5_jax.evaluation.costs import COSTS_FILE, Costs, WindowTime, cost_estimates
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.model_dirs import write_evaluation
from mrt5_jax.evaluation.records import Record, of_deletion
from mrt5_jax.evaluation.sheets import TOTAL, explain_figures, sheets, to_markdown
from mrt5_jax.model.multiply_adds import Polynomial, RowCost, row_cost

from .many_records import random_evaluation

TIMES = (
    WindowTime("none", 8.0, {"el": 4}),
    WindowTime("hard", 4.0, {"el": 4}),
    WindowTime("none", 6.0, {"el": 1, "de": 1}),
    WindowTime("hard", 5.0, {"el": 1, "de": 1}),
)
COSTS = Costs(TIMES, RowCost(Polynomial(0, 1, 0), Polynomial(10, 2, 1)))


def values(records: list[Record], costs: Costs, deletion: str, language: str | None = None) -> dict[str, float]:
    return {name: one.value for name, one in cost_estimates(records, costs, deletion, language).items()}


def test_an_example_takes_its_share_of_its_window() -> None:
    """Four take 1 ms, two 2.5: the median is over examples, not over windows."""
    found = values([], COSTS, "hard")
    assert found == {"runtime": 1.0, "runtime_min": 1.0, "runtime_max": 2.5, "speedup": 2.0}
    assert values([], COSTS, "none") == {"runtime": 2.0, "runtime_min": 2.0, "runtime_max": 3.0}


def test_a_language_has_the_times_of_windows_of_its_own() -> None:
    assert values([], COSTS, "hard", "el") == {"runtime": 1.0, "runtime_min": 1.0, "runtime_max": 1.0, "speedup": 2.0}
    assert values([], COSTS, "hard", "de") == {}


def test_without_a_clocked_evaluation_of_none_there_is_no_speedup() -> None:
    assert "speedup" not in values([], Costs(TIMES[1::2]), "hard")
    assert values([], Costs(), "hard") == {}


def test_work_is_that_of_the_slots_and_the_ideal_that_of_what_is_needed() -> None:
    """By hand: x before the gate, 10 + 2 s + s^2 after it."""
    row = Record("t", "el", 0, "hard", 1.0, 1, 1, True, 10, 6, 8, False, "", 0, 12)
    other = row._replace(index=1, num_kept_tokens=4)
    of_old = row._replace(index=2, input_length=0)
    found = values([row, other, of_old], COSTS, "hard")
    assert found["multiply_adds"] == 12 + 10 + 16 + 64
    assert found["ideal_speedup"] == pytest.approx(2 * (12 + 178) / (24 + 10 + 12 + 36 + 10 + 8 + 16))
    soft = values([row._replace(deletion="soft", rung=12)], COSTS, "soft")
    assert soft["ideal_speedup"] == 1, "soft deletion removes nothing"
    assert soft["multiply_adds"] == 12 + 178


def test_costs_come_back_from_the_folder_of_an_evaluation(tmp_path: Path) -> None:
    """Under the name that the evaluation is given, and in the tables; the counts of a real model."""
    records = random_evaluation(30)
    config = ModelConfig(16, 2, 8, 16, 2, 1, gate=GateConfig(layer=1))
    costs = Costs(TIMES, row_cost(config, 12))
    folder = write_evaluation(tmp_path, Evaluation(records, {"hard": 1.0}, costs=costs), "tasks", "test", 7)
    found = read_evaluations([f"other={folder}"])
    assert list(found.costs.values()) == [costs, costs], "of none and of hard"
    assert {(task, split, system.model) for task, split, system in found.costs} == {("tasks", "test", "other")}
    (comparison,) = compare(found.records, 5, costs=found.costs)
    hard = comparison.systems[1]
    assert hard.total["runtime"].value == 1.0
    hard_records = of_deletion(found.records, "hard")
    assert hard.total["multiply_adds"] == cost_estimates(hard_records, costs, "hard")["multiply_adds"]
    assert "runtime" not in hard.languages["de"]
    tables = {sheet.title: sheet for sheet in sheets([comparison])}
    headings = ["", "examples", "ms an example", "speed-up", "multiply-adds, millions", "ideal speed-up"]
    assert tables["tasks (test), cost"].headings == headings
    assert tables["tasks (test), cost"].rows[1][2:4] == ["1.000 (1.000 to 2.500)", "2.00"]
    assert tables["tasks (test), cost"].rows[0][3] == "-", "none is what others are compared with"
    by_language = {row[0]: row[3] for row in tables["tasks (test), ms an example"].rows}
    assert by_language == {"el": "1.000 (1.000 to 1.000)", "de": "-", TOTAL: "1.000 (1.000 to 2.500)"}
    assert {line.split(":")[0] for line in explain_figures([comparison])} >= set(headings[2:])
    assert "1.000 (1.000 to 2.500)" in to_markdown([comparison])


def test_evaluations_of_before_have_no_costs_and_damage_is_named(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path, Evaluation(random_evaluation(2), {}, costs=COSTS), "tasks", "test", 7)
    path = folder / COSTS_FILE
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({"milliseconds_per_batch": {}}))
    assert not read_evaluations([str(folder)]).costs
    path.unlink()
    assert not read_evaluations([str(folder)]).costs
    damage = [{"windows": [1]}, {"windows": [{"deletion": "hrad", "milliseconds": 1, "examples": {}}]}]
    for change in (*damage, {"multiply_adds": {"before_gate": [1, 2]}}):
        path.write_text(json.dumps(whole | change))
        with pytest.raises(UserError, match=r"timing\.json is not what `mrt5 eval` writes: evaluate again"):
            read_evaluations([str(folder)])
    path.write_text("[")
    with pytest.raises(UserError, match=r"timing\.json is not what"):
        read_evaluations([str(folder)])
