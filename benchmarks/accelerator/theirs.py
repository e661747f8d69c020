"""transformers' PyTorch T5 as contestants, in a process of its own.

JAX and PyTorch bring CUDA libraries of their own, of which one process can load one version; and what kills PyTorch
must not end the measurement. All is in bfloat16, parameters and AdamW's moments too, which ours keep in float32.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.accelerator.ours import FORWARD, TRAINING, decoding_section
from benchmarks.accelerator.race import Clock, Contestant, UnableError, one_line
from benchmarks.accelerator.sizes import Sizes, make_batch
from benchmarks.torch_model import TorchSetting, make_torch_t5
from mrt5_jax.model.multiply_adds import forward_multiply_adds, training_multiply_adds

_DEVICES = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "rocm": "cuda"}
"""Platforms of JAX -> PyTorch's names."""

_PATIENCE = 60.0
"""Seconds that an answer may take beyond the budget."""


class TorchProcess:
    """The process; it loads PyTorch while others compute. Where it cannot be had, its contestants are unable."""

    def __init__(self, sizes: Sizes, platform: str, clock: Clock) -> None:
        self._clock = clock
        self.description: str | None = None
        """Versions and the attention implementation, once it has answered."""
        self._process = None
        self._problem = _why_not(platform)
        if self._problem is None:
            spawn = multiprocessing.get_context("spawn")
            self._connection, child = spawn.Pipe()
            self._process = spawn.Process(target=serve, args=(child, sizes, _DEVICES[platform]), daemon=True)
            self._process.start()
            child.close()

    def run(self, section: str, rows: int, calls: int) -> int | None:
        """So many calls with so many rows, done; returns the most bytes that PyTorch held on the device meanwhile.

        Raises:
            UnableError: the process cannot be had, died, does not answer, or says what failed.
        """
        if self._problem is None and self.description is None:
            self.description = self._answer(final=True)
        if self._problem is not None:
            raise UnableError(self._problem)
        with contextlib.suppress(OSError):  # `_answer` says why
            self._connection.send((section, rows, calls))
        return self._answer()

    def _answer(self, *, final: bool = False) -> Any:
        """What the process says next; `final`: where it is a problem it is the last."""
        problem, answer = self._receive()
        if problem is not None:
            if final:
                self._problem = problem
            raise UnableError(problem)
        return answer

    def _receive(self) -> tuple[str | None, Any]:
        assert self._process is not None
        try:
            if self._connection.poll(max(self._clock.left, 0) + _PATIENCE):
                return self._connection.recv()
            self._problem = "PyTorch's process does not answer"
        except (EOFError, OSError):
            self._process.join(_PATIENCE)
            self._problem = f"PyTorch's process ended, exit code {self._process.exitcode}"
        return self._problem, None

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.join()
            self._connection.close()


def _why_not(platform: str) -> str | None:
    """Why PyTorch cannot take part on a platform of JAX; None where it can be tried."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    return None if platform in _DEVICES else f"PyTorch does not run on a {platform} here"


class _Calls:
    """The contestant of a section."""

    def __init__(self, process: TorchProcess, section: str, rows: int) -> None:
        self._run = functools.partial(process.run, section, rows)
        self.compile_seconds: float | None = None
        self.memory = self._run(1)

    def turn(self, calls: int) -> None:
        self._run(calls)


def their_contestants(process: TorchProcess, sizes: Sizes) -> list[Contestant]:
    """One for each section. It is ByT5: there is no gate, and nothing is deleted."""
    plain = dataclasses.replace(sizes.model, gate=None)
    decoded = sizes._replace(target_length=sizes.decoded)
    read, written = sizes.rows * sizes.input_length, sizes.rows * sizes.decoded

    def contestant(section: str, num_bytes: int, multiply_adds: float) -> Contestant:
        prepare = functools.partial(_Calls, process, section, sizes.rows)
        return Contestant(f"{section}, PyTorch", section, num_bytes, multiply_adds, prepare)

    def forward(own: Sizes) -> int:
        return own.rows * forward_multiply_adds(plain, own.data, own.input_length).total

    return [
        contestant(TRAINING, read, training_multiply_adds(plain, sizes.data, sizes.input_length)),
        contestant(FORWARD, read, forward(sizes)),
        contestant(decoding_section(sizes), written, forward(decoded)),
    ]


def serve(connection: Connection, sizes: Sizes, device: str) -> None:
    """Answers with (problem or None, result): first its own name, then the memory of every request."""
    try:
        model = TorchT5(sizes, device)
        connection.send((None, model.name))
        while True:
            section, rows, calls = connection.recv()
            try:
                connection.send((None, model.run(section, rows, calls)))
            except Exception as error:
                connection.send((one_line(error), None))
    except EOFError:
        return
    except Exception as error:
        connection.send((one_line(error), None))


class TorchT5:
    """The model on a device, with sdpa where this version of transformers has it for T5, and what it can be asked."""

    def __init__(self, sizes: Sizes, device: str) -> None:
        import torch
        import transformers

        if device == "cuda" and not torch.cuda.is_available():
            raise UnableError(f"torch {torch.__version__} finds no CUDA device")
        self._cuda, self._sizes = torch.cuda if device == "cuda" else None, sizes
        with torch.device(device):
            try:
                setting = TorchSetting("sdpa")
                model = make_torch_t5(sizes.model, setting)
            except ValueError:  # this version of transformers has no sdpa for T5
                setting = TorchSetting("eager")
                model = make_torch_t5(sizes.model, setting)
        self._model = model.to(torch.bfloat16)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-12)
        self._batch = {
            name: torch.tensor(rows, dtype=torch.long, device=device) for name, rows in make_batch(sizes).items()
        }
        self._sections: dict[str, Callable[[dict[str, Any]], None]] = {
            TRAINING: self._train,
            FORWARD: self._forward,
            decoding_section(sizes): self._decode,
        }
        self.name = f"torch {torch.__version__}, transformers {transformers.__version__}, {setting.attention}"

    def run(self, section: str, rows: int, calls: int) -> int | None:
        """So many calls; returns when the device has done them, with the most bytes that it held."""
        batch = {name: array[:rows] for name, array in self._batch.items()}
        return run_and_wait(functools.partial(self._sections[section], batch), calls, self._cuda)

    def _train(self, batch: dict[str, Any]) -> None:
        self._model(**_inputs(batch), labels=batch["decoder_target_tokens"]).loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()  # so that other sections do not hold gradients

    def _forward(self, batch: dict[str, Any]) -> None:
        import torch

        with torch.inference_mode():
            self._model(**_inputs(batch), decoder_input_ids=batch["decoder_input_tokens"])

    def _decode(self, batch: dict[str, Any]) -> None:
        import torch

        tokens = self._sizes.decoded
        with torch.inference_mode():
            out = self._model.generate(
                **_inputs(batch), do_sample=False, num_beams=1, min_new_tokens=tokens, max_new_tokens=tokens
            )
        if out.shape[1] != tokens + 1:
            raise UnableError(f"decoded {out.shape[1] - 1} tokens, not {tokens}")


def run_and_wait(call: Callable[[], None], calls: int, cuda: Any) -> int | None:
    """Calls so often and waits for the device; returns the most bytes that it held meanwhile.

    Args:
        cuda: `torch.cuda`; None where PyTorch computes on the CPU, which neither runs ahead nor counts.
    """
    if cuda is None:
        for _ in range(calls):
            call()
        return None
    cuda.reset_peak_memory_stats()
    for _ in range(calls):
        call()
    cuda.synchronize()
    return cuda.max_memory_allocated()


def _inputs(batch: dict[str, Any]) -> dict[str, Any]:
    import torch

    ids = batch["encoder_input_tokens"]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
