"""Records grouped by task, system and language; sources that cannot be compared are refused."""

import math
from pathlib import Path

import pytest

from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.comparison import compare, read_evaluations
from mrt5_jax.evaluation.estimates import combine_languages, estimate
from mrt5_jax.evaluation.records import Record, group_by, of_deletion, to_json_lines

from .many_records import random_evaluation

DRAWS = 5


def write(path: Path, records: list[Record]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(to_json_lines(records), encoding="utf-8")
    return str(path)


def labels(records: list[Record]) -> list[list[str]]:
    return [[one.label for one in comparison.systems] for comparison in compare(records, DRAWS)]


def test_a_system_has_its_languages_and_its_total() -> None:
    """Estimated of its own records, beside those of the same model without deletion."""
    records = random_evaluation(60)
    (comparison,) = compare(records, DRAWS)
    none, hard = comparison.systems
    assert (comparison.task, comparison.split) == ("tasks", "test")
    assert [none.label, hard.label] == ["none", "hard"]
    undeleted, own = of_deletion(records, "none"), of_deletion(records, "hard")
    by_language = group_by(own, "language")
    assert comparison.languages == list(group_by(undeleted, "language"))
    expected = {name: estimate(group, undeleted, DRAWS) for name, group in by_language.items()}
    assert {name: len(group) for name, group in by_language.items()} == hard.num_examples
    for name, estimates in expected.items():
        assert {figure: one.value for figure, one in hard.languages[name].items()} == pytest.approx(
            {figure: one.value for figure, one in estimates.items()}, nan_ok=True
        )
    groups = [(by_language[name], expected[name]) for name in by_language]
    assert hard.total["loss"] == combine_languages(groups)["loss"]
    assert not math.isnan(hard.total["loss_increase_correlation"].value)
    assert math.isnan(none.total["loss_increase_correlation"].value)


def test_labels_say_what_differs() -> None:
    records = random_evaluation(3, ("hard",))
    other = [record._replace(model="large") for record in records]
    later = [record._replace(step=9) for record in records]
    assert labels(records) == [["hard"]]
    assert labels([*records, *other]) == [["small, hard", "large, hard"]]
    assert labels([*records, *later]) == [["step 7, hard", "step 9, hard"]]
    at = [[record._replace(threshold=tau) for record in records] for tau in (-15.0, -2.5)]
    assert labels([*at[0], *at[1]]) == [["hard, threshold -15", "hard, threshold -2.5"]]
    assert labels([*at[0], *random_evaluation(3, ("none",))]) == [["hard", "none"]]
    beam = [record._replace(search="beam4") for record in records]
    assert labels([*records, *beam]) == [["hard", "hard, beam4"]]


def test_tasks_are_apart_and_a_mixture_is_one() -> None:
    records = random_evaluation(6, ("hard",))
    halves = [record._replace(task=f"t.{record.index % 2}") for record in records]
    assert [one.task for one in compare(halves, DRAWS)] == ["tasks"]
    assert [one.task for one in compare([one._replace(mixture="") for one in halves], DRAWS)] == ["t.0", "t.1"]
    splits = [one._replace(split="validation") for one in records[:3]]
    assert [one.split for one in compare([*splits, *records[3:]], DRAWS)] == ["validation", "test"]


def test_evaluations_are_read_from_files_and_folders_under_names(tmp_path: Path) -> None:
    records = random_evaluation(4)
    first = write(tmp_path / "a" / "records.jsonl", records)
    second = write(tmp_path / "b=c.jsonl", records)
    found = read_evaluations([str(tmp_path / "a"), f"other={second}"])
    assert found.records == [*records, *(record._replace(model="other") for record in records)]
    assert read_evaluations([first]).records == records
    assert read_evaluations([second]).records == records, "what is there wins over a name"
    assert not found.costs, "nobody has clocked them"


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    records = random_evaluation(4)
    first = write(tmp_path / "a" / "records.jsonl", records)
    second = write(tmp_path / "second.jsonl", records[:2])
    with pytest.raises(UserError, match=r"both hold tasks of small under none deletion: give one .* OTHER="):
        read_evaluations([first, second])
    empty = write(tmp_path / "empty.jsonl", [])
    with pytest.raises(UserError, match=r"empty\.jsonl: holds no records"):
        read_evaluations([empty])
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        read_evaluations([str(tmp_path / "nowhere.jsonl")])
    with pytest.raises(UserError, match="NAME=PATH"):
        read_evaluations(["name="])
