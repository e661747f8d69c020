"""MODEL_DIRs as training and `mrt5 eval` leave them, of made numbers; texts of which some bytes are deleted."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from mrt5_jax.api.results import TextDeletions
from mrt5_jax.config import ControllerConfig, DataConfig, GateConfig, ModelConfig, TrainingConfig
from mrt5_jax.data.vocabulary import EOS_ID, encode
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.inspection import pieces
from mrt5_jax.evaluation.model_dirs import write_evaluation
from mrt5_jax.evaluation.records import Record
from mrt5_jax.report.charts import Chart
from mrt5_jax.report.drawing import ChartFiles
from mrt5_jax.runs.model_dir import METRICS, write_model_config
from mrt5_jax.runs.run_files import SavedRun, write_run

from ..evaluation.many_records import random_evaluation

CONFIG = ModelConfig(16, 2, 8, 16, 2, 1, gate=GateConfig(layer=1))
DATA = DataConfig("t", ("t",), input_length=64, target_length=16, batch_size=4, eval_batch_size=4)
TARGET = 0.4
TIMES: Any = {"none": 10.0, "hard": 7.5}
STEP = 7


def work(slots: int) -> float:
    """What a row's body costs."""
    return 3.0 * slots


def training_lines(steps: int) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl: one a step, and an evaluation after the last."""
    lines: list[dict[str, Any]] = [
        {"step": step, "loss": 5 / step, "deletion_rate": 0.5 - 0.1 / step, "alpha": 0.01 * step, "total_loss": 6.0}
        for step in range(1, steps + 1)
    ]
    return [*lines, {"step": steps, "eval/tasks/soft_hard_gap": 0.25, "eval/tasks/hard/loss": 1.5}]


def write_metrics(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_run(
    folder: Path, num_examples: int = 40, steps: int = 20, num_steps: int = 20, seed: int = 0
) -> tuple[Path, list[Record]]:
    """Writes a MODEL_DIR without checkpoints, and returns it with the records in it; no examples: no evaluation."""
    write_model_config(folder, CONFIG)
    controller = ControllerConfig(target_deletion_rate=TARGET)
    run = SavedRun(str(folder), CONFIG, DATA, TrainingConfig(num_steps=num_steps), controller=controller)
    write_run(folder, run, "")
    write_metrics(folder, training_lines(steps))
    records = random_evaluation(num_examples, seed=seed)
    if records:
        write_evaluation(folder, Evaluation(records, TIMES, body=work), "tasks", "test", STEP)
    return folder, records


def deletions_of(data: bytes, deleted: set[int]) -> TextDeletions:
    """A text whose bytes at these places are deleted; the place after the last byte is the end of the sequence."""
    ids = np.asarray([*encode(data), EOS_ID], np.int32)
    keep = np.array([place not in deleted for place in range(len(ids))])
    return TextDeletions([pieces(ids, keep, np.where(keep, -0.25, -29.75).astype(np.float32))], -30.0)


def sketch(chart: Chart) -> ChartFiles:
    """Stands for a drawing where nothing has to be drawn."""
    return ChartFiles('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><path id="p"/></svg>', b"\x89PNG")


class PageReader(HTMLParser):
    """Reads a page: its tags, its tables with the numbers in full precision, the bytes of its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str | float]]] = {}
        """By the id of the figure that they are in, or by their caption."""
        self.texts: list[bytes] = []
        self._figure, self._caption, self._inside = "", "", ""
        self._rows: list[list[str | float]] = []
        self._text, self._number = "", None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "figure":
            self._figure = attributes["id"] or ""
        elif tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th", "caption"):
            self._inside, self._text, self._number = tag, "", None
        elif tag == "data":
            self._number = float(attributes["value"] or "")
        elif tag == "p" and attributes.get("class") == "text":
            self.texts.append(b"")
        elif tag in ("span", "del") and "title" in attributes:
            found = re.findall(r"(?:([0-9A-F]{2}) )?-?\d+\.\d\d (?:kept|deleted)", attributes["title"] or "")
            self.texts[-1] += bytes(int(code, 16) for code in found if code)

    def handle_endtag(self, tag: str) -> None:
        if tag == "figure":
            self._figure = ""
        elif tag == "table":
            self.tables[self._figure or self._caption] = self._rows
        elif tag == "caption":
            self._caption, self._inside = self._text, ""
        elif tag in ("td", "th"):
            self._rows[-1].append(self._text if self._number is None else self._number)
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self._text += data

    def rows(self, table: str) -> list[list[str | float]]:
        """The rows of a table below its headings."""
        return self.tables[table][1:]
