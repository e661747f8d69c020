"""A random model, and the ten lines that tests of `mrt5 infer` give it."""

import json
from pathlib import Path
from typing import Any

from mrt5_jax.inference.engine import Engine

from ..inference.models import random_params, small_config

CONFIG = small_config(vocab_size=384)
SIZES = ("--batch_size=2", "--input_length=24", "--max_target_length=6")
ENGINE = Engine(CONFIG, random_params(CONFIG), "soft")
TEXTS = ["ab", "hello", "x", "some bytes", "longer than the others", "", "é", "abcd", "12", "y" * 20]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
