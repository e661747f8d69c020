"""What a person sees while a run goes on."""

import re
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from mrt5_jax.data.task_names import label_of
from mrt5_jax.training.writers import Numbers

_SHOWN = {
    "loss": "loss {:.4f}",
    "alpha": "alpha {:.3g}",
    "tokens_per_second": "{:,.0f} tokens/s",
}
_SHOWN_OF_GATE = {
    "deletion_rate": "deleted {:.1%}",
    "kept_length": "kept {:.1f}",
    "rung": "slots {:.1f}",
    "saved": "saved {:.1%}",
    "saved_if_exact": "exact {:.1%}",
}
"""On a line of its own where the lines above can be written over."""
_LINES = (_SHOWN, _SHOWN_OF_GATE)
_EVALUATION_LOSS = re.compile("eval/(.+)/(.+)/loss")


class ProgressDisplay:
    """A writer: a live line on a terminal, a plain line a report elsewhere (log files, pipes).

    Shows the step, the loss, the deletion rate, kept positions and slots, the share of the multiply-adds after the gate
    that was saved and that exact lengths would have saved, alpha, tokens a second and the time left, and a line for
    each evaluation; what a run does not report is left out.
    """

    def __init__(
        self,
        num_steps: int,
        step: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins at `step` of `num_steps`; without a console, it is standard error."""
        self._num_steps = num_steps
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._first: tuple[int, float] | None = None
        self._shown: dict[str, str] = {}
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
        self._live = Progress(*columns, console=self._console) if self._console.is_terminal else None
        if self._live:
            self._live.start()
            self._task = self._live.add_task("compiling", total=num_steps, completed=step)

    def write(self, step: int, metrics: Numbers, timing: Numbers) -> None:
        """See `writers.Writer`."""
        found = ((_EVALUATION_LOSS.fullmatch(name), value) for name, value in metrics.items())
        if losses := [f"{label_of(name[1])}/{name[2]} {value:.4f}" for name, value in found if name]:
            self._print(f"step {step}/{self._num_steps}  evaluation loss: {', '.join(losses)}")
        numbers = {**metrics, **timing}
        news = {name: form.format(numbers[name]) for name, form in (_SHOWN | _SHOWN_OF_GATE).items() if name in numbers}
        if not news:
            return
        self._shown |= news
        first, of_gate = ("  ".join(self._shown[name] for name in names if name in self._shown) for names in _LINES)
        first = "  ".join([first, *self._time_left(step)])
        if self._live:
            self._live.update(self._task, completed=step, description="\n".join(filter(None, (first, of_gate))))
        else:
            self._print(f"step {step}/{self._num_steps}  {'  '.join(filter(None, (first, of_gate)))}")

    def flush(self) -> None:
        """See `writers.Writer`."""

    def close(self) -> None:
        """See `writers.Writer`."""
        if self._live:
            self._live.stop()

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def _time_left(self, step: int) -> list[str]:
        """By the pace since the first report, so that compilation does not count."""
        now = self._clock()
        if self._first is None:
            self._first = (step, now)
        first_step, first_time = self._first
        if step == first_step:
            return []
        seconds = round((now - first_time) / (step - first_step) * (self._num_steps - step))
        return [f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"]
