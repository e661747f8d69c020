"""Every pair of options either works, and a run shows it, or is refused in one line by the checks alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mrt5_jax.errors import UserError
from mrt5_jax.pairs import MODES, REFUSED, Refused
from mrt5_jax.selection.selectors import SELECTORS
from mrt5_jax.validation import validate

from .covering import RUNS
from .options import HOW, STEPS, VALUES, Options, all_pairs, make_run, pairs_of, refused_pairs, traits

QUICK = next(number for number, run in enumerate(RUNS) if (run["selector"], run["dispatch"]) == ("none", "host"))
"""One length and few programs: it takes seconds."""

TOLERANCES = {"float32": 1e-5, "float64": 1e-12, "bfloat16": 2**-6}
"""Relative, of a loss. bfloat16 has 8 bits, and another program rounds in other places."""


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: f"{refused.one} with {refused.other}")
def test_a_refused_pair_is_one_line_that_says_what_would_be_right(refused: Refused) -> None:
    with pytest.raises(UserError) as error:
        validate(make_run(dict([refused.one, refused.other]), "m"))
    assert str(error.value).startswith("config.")
    assert "\n" not in str(error.value)
    assert any(remedy in str(error.value) for remedy in ("set it to", "deletion = 'none'"))


def test_every_other_pair_passes_the_checks() -> None:
    for pair in set(all_pairs()) - refused_pairs():
        validate(make_run(dict(pair), "m"))


def test_options_are_those_of_the_table_and_are_read_back() -> None:
    assert list(VALUES) == list(MODES)
    for option, values in VALUES.items():
        for value in values:
            assert MODES[option](make_run({option: value}, "m")) == value
    like = {traits(kind): kind for kind in reversed(VALUES["selector"]) if kind in SELECTORS}
    assert set(map(traits, SELECTORS)) == like.keys(), "every selector is like one that is tried"
    named = {part for refused in REFUSED for part in (refused.one, refused.other)}
    named = {
        (option, like[traits(value)] if option == "selector" and value in SELECTORS else value)
        for option, value in named
    }
    rare = {("deletion", f"{deletion} and hard") for deletion in ("none", "saturated", "auto")}
    assert named - rare <= {(option, value) for option, values in VALUES.items() for value in values}


def test_few_runs_have_every_pair_that_goes_together() -> None:
    assert len(RUNS) <= 41, (
        "of 54 pairs of a deletion and a selector 36 go together, and selectors need three runs each"
    )
    covered = set.union(*map(pairs_of, RUNS))
    assert covered == set(all_pairs()) - refused_pairs()


def trained(runs: list[Options], folder: Path) -> list[list[dict[str, float]]]:
    order = json.dumps({"folder": str(folder), "runs": runs})
    process = subprocess.run(
        [sys.executable, "-m", "tests.pairs.on_two_devices", order],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def compare(options: Options, folder: Path) -> None:
    """A run computes what the plain execution of the same computes."""
    plain = options | {option: VALUES[option][0] for option in HOW}
    ours, expected = trained([options, plain], folder)
    assert len(ours) == len(expected) == STEPS
    for one, other in zip(ours, expected, strict=True):
        assert np.isfinite(one["total_loss"])
        assert one["total_loss"] == pytest.approx(other["total_loss"], rel=TOLERANCES[options["dtype"]])
        assert one["deletion_rate"] == other["deletion_rate"]


def test_a_run_computes_the_same_however_it_is_executed(tmp_path: Path) -> None:
    compare(RUNS[QUICK], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [number for number in range(len(RUNS)) if number != QUICK])
def test_all_other_runs_compute_the_same_however_they_are_executed(number: int, tmp_path: Path) -> None:
    compare(RUNS[number], tmp_path)
