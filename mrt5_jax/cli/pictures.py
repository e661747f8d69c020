"""Pictures of a model while it trains: what its gate deletes by now, on a page and on the terminal."""

from pathlib import Path

import jax
from rich.console import Console

from mrt5_jax.config import RunConfig
from mrt5_jax.data.batches import eval_batches
from mrt5_jax.evaluation.inspection import make_inspector, pieces
from mrt5_jax.evaluation.page import Section, render_page
from mrt5_jax.evaluation.terminal import LEGEND, render_pieces
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.processes import say
from mrt5_jax.runs.model_dir import write_atomically
from mrt5_jax.training.hooks import Hook, Moment

FIRST_PICTURE = 100
"""The step after which there is something to see for the first time."""
PICTURE_STEPS = 300
"""Between two of the later pictures."""
NUM_SHOWN = 3
"""Strings that are shown on the terminal, too."""


class Pictures(Hook):
    """Writes a page of unseen strings of a run's first evaluation task, and shows some of them on standard error.

    There is none after the last step: whoever trains the model has more to show of it then.
    """

    def __init__(self, run: RunConfig, split: str, num_examples: int, title: str, page: Path) -> None:
        """Reads the strings, at most as many as an evaluation's batch has; `run` is of a model with a gate."""
        assert run.model.gate is not None
        batch = next(eval_batches(run.data.eval_tasks[0], run.data, split=split, num_examples=num_examples))
        self._inputs, self._examples = batch.arrays["encoder_input_tokens"], batch.examples
        self._inspector = make_inspector(MrT5(run.model, run.execution))
        self._run, self._scale, self._title, self._page = run, run.model.gate.scale, title, page
        self._explained = False

    def due(self, moment: Moment) -> bool:
        """See `Hook`."""
        return not moment.last and (moment.step == FIRST_PICTURE or moment.step % PICTURE_STEPS == 0)

    def __call__(self, moment: Moment) -> None:
        """See `Hook`. A page that cannot be written does not stop the run."""
        selection = jax.device_get(self._inspector(moment.state.params, self._inputs))
        keep, values = selection.keep, selection.signals.key_bias
        sections = [
            Section(f"string {example.index}", pieces(self._inputs[row], keep[row], values[row]))
            for row, example in enumerate(self._examples)
        ]
        news, where = self._news(moment.step), str(self._page)
        try:
            write_atomically(self._page, render_page(self._title, f"Unseen strings: {news}.", sections, self._scale))
        except OSError as error:
            where = f"{self._page} cannot be written ({error.strerror})"
        say(f"{news}; more strings: {where}\n{self._rendered(sections[:NUM_SHOWN])}")

    def _news(self, step: int) -> str:
        news = f"what the gate deletes at step {step:,} of {self._run.training.num_steps:,}"
        delay = self._run.loss.regularizer_delay
        return f"{news}, before it is pushed (from step {delay:,} on)" if step <= delay else news

    def _rendered(self, sections: list[Section]) -> str:
        """As a text, colours and all: a console of its own would print into the live progress of training."""
        console = Console(stderr=True)
        with console.capture() as rendered:
            if not self._explained:
                console.print(LEGEND, style="dim", highlight=False, soft_wrap=True)
            for section in sections:
                for line in render_pieces(section.pieces, self._scale, console.width):
                    console.print(line)
        self._explained = True
        return rendered.get().rstrip("\n")
