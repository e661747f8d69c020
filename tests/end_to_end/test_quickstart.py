"""The quickstart's figures hold for its own seed and two others, each judged by itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_QUICKSTART = """
import json, sys
from pathlib import Path
from mrt5_jax.cli import quickstart as module
from mrt5_jax.evaluation.records import of_deletion, summarize

results = module.quickstart(Path(sys.argv[1]), int(sys.argv[2]))
hard = of_deletion(results.mrt5.records, "hard")
vowels = results.vowels
print(json.dumps({
    "strings": len(hard),
    "sequence_accuracy": summarize(hard)["sequence_accuracy"],
    "vowels_deleted": vowels.vowels.rate,
    "vowels_among_deleted_letters": vowels.vowels_among_deleted_letters,
    "page": results.page.is_file(),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hard_deletion_is_learnt(seed: int, tmp_path: Path) -> None:
    """In a process of its own, compiled as users compile: the tests' compiler flags make slow programs."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", _QUICKSTART, str(tmp_path), str(seed)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"seed {seed}: {found}")
    assert found["strings"] == 2000
    assert found["sequence_accuracy"] >= 0.99
    assert found["vowels_deleted"] >= 0.95
    assert found["vowels_among_deleted_letters"] >= 0.98
    assert found["page"]
