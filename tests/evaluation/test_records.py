"""Records: their metrics are those of objectives.metrics, and files give back what was written."""

import json
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.records import (
    RECORD_SCHEMA,
    Record,
    group_by,
    read_records,
    soft_hard_gap,
    summarize,
    to_json_lines,
)
from mrt5_jax.objectives.losses import RowLosses
from mrt5_jax.objectives.metrics import deletion_metrics, target_metrics

RECORD = Record("task", "el", 7, "hard", 1.25, 4, 3, False, 10, 6, 8, False, "αβ\n\\xff")


def random_records(count: int, deletion: str = "hard") -> list[Record]:
    generator = np.random.default_rng(0)
    records = []
    for index in range(count):
        inputs, targets = int(generator.integers(0, 9)), int(generator.integers(0, 5))
        correct = int(generator.integers(0, targets + 1))
        kept = int(generator.integers(min(inputs, 1), inputs + 1))
        dropped = int(generator.integers(0, inputs - kept + 1))
        nll = float(np.float32(generator.random() * targets))
        rescued = bool(inputs and generator.random() < 0.3)
        of_target = (nll, targets, correct, correct == targets)
        records.append(Record("t", "ab"[index % 2], index, deletion, *of_target, inputs, kept, 8, rescued, "", dropped))
    return records


def test_metrics_are_those_of_the_objectives() -> None:
    """One definition of each metric: on the host from records as on the device from batches, empty rows included."""
    records = random_records(40)

    def column(name: str, dtype: type) -> jnp.ndarray:
        return jnp.asarray([getattr(record, name) for record in records], dtype)

    correct, tokens = column("num_correct_tokens", jnp.float32), column("num_target_tokens", jnp.float32)
    rows = RowLosses(column("nll", jnp.float32), jnp.zeros(40), tokens, correct, column("sequence_correct", bool))
    slots = jnp.arange(8)[None, :]
    device = target_metrics(rows) | deletion_metrics(
        slots < column("num_input_tokens", jnp.int32)[:, None],
        slots < (column("num_kept_tokens", jnp.int32) + column("num_dropped_tokens", jnp.int32))[:, None],
        column("rung", jnp.int32),
        column("rescued", bool),
        column("num_dropped_tokens", jnp.int32),
    )
    host = summarize(records)
    assert host.keys() == device.keys()
    np.testing.assert_allclose([host[name] for name in device], [mean.value for mean in device.values()], rtol=1e-5)


def test_sums_are_float64() -> None:
    """A long evaluation's counts do not stop at 2^24, nor do its losses lose their small parts."""
    records = [RECORD._replace(nll=1e8), *[RECORD._replace(nll=0.5)] * 1000]
    assert summarize(records)["loss"] == (1e8 + 500) / 4004


def test_nothing_counted_is_nan() -> None:
    assert all(math.isnan(value) for value in summarize([]).values())


def test_groups_are_apart_and_in_order() -> None:
    records = random_records(20)
    assert group_by(records, "language") == {"a": records[::2], "b": records[1::2]}


def test_gap_is_hard_minus_soft_and_needs_both() -> None:
    soft = [RECORD._replace(deletion="soft", nll=1.0)]
    assert soft_hard_gap([*soft, RECORD]) == pytest.approx((1.25 - 1.0) / 4)
    assert soft_hard_gap(soft) is None


def test_json_lines_give_back_the_records(tmp_path) -> None:
    """Every field, exactly, one line each whatever the prediction holds."""
    path = tmp_path / "records.jsonl"
    records = [RECORD, RECORD._replace(nll=1 / 3, prediction="a\u2028b\r", language="")]
    path.write_text(to_json_lines(records), encoding="utf-8", newline="")
    assert read_records(path) == records
    assert all(type(record.nll) is float for record in read_records(path))


def test_records_of_before_capacities_were_counted_are_read(tmp_path) -> None:
    path = tmp_path / "records.jsonl"
    older = RECORD._asdict()
    del older["num_dropped_tokens"]
    path.write_text(json.dumps(older) + "\n", encoding="utf-8")
    assert read_records(path) == [RECORD]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 is no record"),
        (json.dumps({"task": "t"}), "line 2 is no record"),
        (json.dumps(RECORD._replace(rung="8")._asdict()), "line 2: rung is '8'"),
    ],
)
def test_bad_lines_are_named(tmp_path, line: str, expected: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(to_json_lines([RECORD]) + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=expected) as caught:
        read_records(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("metrics", [None, {"accuracy": 100.0, "f1": 0}])
def test_what_was_generated_is_given_back(tmp_path, metrics: dict[str, float] | None) -> None:
    path = tmp_path / "records.jsonl"
    about = {"mixture": "m", "split": "test", "model": "a", "step": 7, "threshold": -15.0, "num_text_bytes": 3}
    found = RECORD._replace(**about, search="greedy", generated="\u2028", generated_score=-0.5, metrics=metrics)
    path.write_text(to_json_lines([found]), encoding="utf-8", newline="")
    assert read_records(path) == [found]


def test_records_of_schema_2_are_read_and_say_not_which_positions_were_kept(tmp_path) -> None:
    path = tmp_path / "records.jsonl"
    known = RECORD._replace(kept_spans=[[0, 2], [4, 8]])
    older = {name: value for name, value in known._asdict().items() if name != "kept_spans"}
    path.write_text(json.dumps({"schema": 2} | older) + "\n" + to_json_lines([known]), encoding="utf-8")
    assert read_records(path) == [RECORD, known]


def test_every_line_says_its_schema_and_a_newer_one_is_refused(tmp_path) -> None:
    path = tmp_path / "records.jsonl"
    line = json.loads(to_json_lines([RECORD]))
    assert line["schema"] == RECORD_SCHEMA
    path.write_text(json.dumps(line | {"schema": RECORD_SCHEMA + 1, "unheard_of": 1}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"line 1: a record of schema {RECORD_SCHEMA + 1}, .* reads up to") as caught:
        read_records(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema": "2"}, "schema is '2'"),
        ({"schema": 0}, "schema is 0"),
        ({"deletion": "hrad"}, "deletion is 'hrad'"),
        ({"nll": math.nan}, "NaN is no number"),
        ({"nll": "1"}, "nll is '1', not of type float"),
        ({"threshold": True}, "threshold is True"),
        ({"generated": 3}, "generated is 3"),
        ({"metrics": {"f1": "1"}}, "metrics is {'f1': '1'}"),
        ({"sequence_correct": 1}, "sequence_correct is 1, not of type bool"),
        ({"unheard_of": 1}, "is no record"),
        ({"kept_spans": [[0, "1"]]}, "kept_spans is [[0, '1']], not of type"),
        ({"kept_spans": [[0, 1, 2]]}, "kept_spans is [[0, 1, 2]], no spans"),
        ({"kept_spans": [[3, 4], [1, 2]]}, "kept_spans is [[3, 4], [1, 2]], no spans"),
        ({"kept_spans": [[-1, 2]]}, "kept_spans is [[-1, 2]], no spans"),
    ],
)
def test_damage_is_named(tmp_path, change: dict, expected: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(json.loads(to_json_lines([RECORD])) | change) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(expected)):
        read_records(path)


def test_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        read_records(tmp_path / "nowhere.jsonl")


def test_what_was_saved_is_counted_over_rows_with_input_whose_batches_lengths_are_known() -> None:
    """Of a body whose work is its slots: 30 of 48 saved where 12 and 6 ran, and 38 had 6 and 4 run."""
    row = Record("t", "", 0, "hard", 1.0, 1, 1, True, 10, 6, 12, False, "", 0, 32)
    rows = [row, row._replace(num_kept_tokens=4, rung=6, input_length=16)]
    others = [row._replace(num_input_tokens=0, num_kept_tokens=0), row._replace(input_length=0)]
    summary = summarize(rows + others, lambda slots: slots)
    assert summary["saved"] == 30 / 48
    assert summary["saved_if_exact"] == 38 / 48
    assert "saved" not in summarize(rows)
    assert math.isnan(summarize(others, lambda slots: slots)["saved"])
