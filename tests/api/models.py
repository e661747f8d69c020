"""Models and texts that the tests of the front door share."""

import json
from pathlib import Path

from mrt5_jax.api.loading import load
from mrt5_jax.api.model import Model
from mrt5_jax.cli.main import main

from ..cli.small_run import make_model_dir

SCRIPTS = {
    "Latin": "the quick brown fox: œuvre, Ångström, naïve",
    "Cyrillic": "съешь ещё этих мягких булок",
    "Greek": "ξεσκεπάζω την ψυχοφθόρα",
    "Arabic": "صِف خَلقَ خَودِ كَمِثلِ",
    "Hebrew": "דג סקרן שט בים מאוכזב",
    "Devanagari": "ऋषियों को सताने वाले",
    "Thai": "เป็นมนุษย์สุดประเสริฐ",
    "Han": "視野無限廣窗外有藍天",
    "Kana": "いろはにほへとちりぬるを",
    "Hangul": "키스의 고유조건은 입술끼리",
    "Ethiopic": "ሰማይ አይታረስ ንጉሥ አይከሰስ",
}
"""A line in each of eleven scripts, of which `texts` makes many."""

LENGTH = 64


def texts(count: int, most_bytes: int = LENGTH - 1) -> list[str]:
    """Texts of all lengths, in turn of each script, cut between characters."""
    lines = list(SCRIPTS.values())
    found = []
    for number in range(count):
        line = lines[number % len(lines)]
        text = (line[number // len(lines) :] + " " + line) * 2
        while len(text.encode()) > 1 + (number * 5) % most_bytes:
            text = text[:-1]
        found.append(text)
    return found


def make_model(folder: Path) -> Model:
    """A random MrT5 with the run of a MODEL_DIR; its gate deletes about half.

    How it would be initialised is left at the defaults, for Hugging Face has no place for that.
    """
    initialised = "config.ModelConfig.initialization='t5'", "config.GateConfig.bias_init=1.0"
    return load(make_model_dir(folder, f"INPUT_LENGTH={LENGTH}", "TARGET_LENGTH=8", *initialised))


def infer(model_dir: Path, requests: list[dict], folder: Path, *flags: str) -> list[dict]:
    """The lines that `mrt5 infer` writes."""
    given, output = folder / "in.jsonl", folder / "out.jsonl"
    given.write_text("".join(json.dumps(request) + "\n" for request in requests))
    assert main(["infer", f"--model_dir={model_dir}", f"--input={given}", f"--output={output}", *flags]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]
