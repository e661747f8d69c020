"""Commands that run in pieces: each is asked to stop when its time is over, and given again."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

STOPPED = 75
"""Exit code of a run that was asked to stop, and has saved where it stands."""
LOOK_SECONDS = 0.2


class Pieces:
    """The pieces that are left, for all commands together."""

    def __init__(self, minutes: float, number: int) -> None:
        """`minutes` of each, and how many there may be."""
        self._minutes, self._left = minutes, number

    def run(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        output: Path | None = None,
        environment: Mapping[str, str] | None = None,
        watch: Callable[[float], None] = lambda seconds: None,
    ) -> bool:
        """Gives a command until it has come to its end; returns False where the pieces do not suffice.

        Args:
            name: of what is run, for messages.
            log: a file that gets the seconds of each piece, a line each.
            output: a file for what the last piece prints on standard output; None: it is printed.
            watch: is called now and then with the seconds so far, those of earlier pieces included.

        Raises:
            SystemExit: the command fails, or two pieces running were too short for it to save anything.
        """
        killed = 0
        while self._left > 0:
            self._left -= 1
            begun = time.perf_counter() - sum(seconds_of(log))
            with contextlib.ExitStack() as opened:
                file = None
                if output is not None:
                    output.parent.mkdir(parents=True, exist_ok=True)
                    file = opened.enter_context(output.open("w", encoding="utf-8"))
                process = opened.enter_context(subprocess.Popen(command, stdout=file, env=environment))
                code = self._wait(process, begun, watch)
            seconds = time.perf_counter() - begun - sum(seconds_of(log))
            if code not in (0, STOPPED, -signal.SIGTERM):
                raise SystemExit(f"{name} failed, see above")
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a") as lines:
                lines.write(f"{seconds:.6f}\n")
            if code == 0:
                return True
            killed = killed + 1 if code == -signal.SIGTERM else 0
            if killed == 2:
                raise SystemExit(f"{name}: {self._minutes:g} minutes are too few to save anything: give more --minutes")
        return False

    def _wait(self, process: subprocess.Popen, begun: float, watch: Callable[[float], None]) -> int:
        """The exit code, after at most a piece's time and what saving takes."""
        end = time.perf_counter() + self._minutes * 60
        while (code := process.poll()) is None and time.perf_counter() < end:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
            watch(time.perf_counter() - begun)
        if code is None:
            process.terminate()
            code = process.wait()
        watch(time.perf_counter() - begun)
        return code


def seconds_of(log: Path) -> list[float]:
    """Returns the seconds of each piece so far."""
    return [float(line) for line in log.read_text().split()] if log.is_file() else []
