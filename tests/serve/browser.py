"""A headless Chromium, driven over the pipe of its DevTools protocol: nothing else is needed to test a page."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM_VARIABLE = "MRT5_CHROMIUM"
SECONDS = 60.0


class Tab:
    """A tab, and the errors that its console has shown.

    The protocol's messages are JSON with a zero byte after each; an answer has its question's id, an event has none.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, os.fdopen(answers, "rb")
        self._number, self._buffer, self._session = 0, b"", {}
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol; returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            self._note(found)

    def run(self, expression: str) -> Any:
        """Evaluates JavaScript; returns its value."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Waits until JavaScript says that something is so."""
        deadline = time.monotonic() + SECONDS
        while not self.run(condition):
            assert time.monotonic() < deadline, f"{condition} does not come true; errors: {self.errors}"
            time.sleep(0.05)

    def close(self) -> None:
        self._answers.close()
        os.close(self._commands)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = self._answers.read1(1 << 16)
            assert more, "the browser has ended"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            self.errors.append(str(parameters["args"]))


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Tab]:
    """Starts the system's Chromium, or the one that MRT5_CHROMIUM names; without one the test is skipped.

    Args:
        folder: where it may write.
    """
    program = os.environ.get(CHROMIUM_VARIABLE) or shutil.which("chromium")
    if program is None:
        pytest.skip(f"needs chromium, or another path to it in {CHROMIUM_VARIABLE}")
    its_commands, commands = os.pipe()
    answers, its_answers = os.pipe()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
    # The pipe's ends have to be its files 3 and 4.
    script = f'exec "$@" 3<&{its_commands} 4>&{its_answers}'
    command = ["bash", "-c", script, "bash", program, *flags, f"--user-data-dir={folder}"]
    with subprocess.Popen(
        command, pass_fds=(its_commands, its_answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        os.close(its_commands)
        os.close(its_answers)
        try:
            tab = Tab(commands, answers)
            yield tab
            tab.close()
        finally:
            process.kill()
