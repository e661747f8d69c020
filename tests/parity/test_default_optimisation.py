"""As users compile: what other tests switch off, XLA's optimisation, may fuse, reorder and approximate."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = "from tests.model.test_encoder_decoder import test_other_precisions_stay_near as check; check('float32', 1e-4)"


def test_the_forward_pass_in_float32_is_the_formula(repository: Path) -> None:
    """Against NumPy in float64, in a process of its own with XLA's own flags."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=repository, env=environment, check=True)
