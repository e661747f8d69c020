"""A model with its weights: generating, scoring, what the gate deletes, encoding, saving."""

import dataclasses
import math
import numbers
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np

from mrt5_jax.api.given import Text, check_counts, numbered, text_bytes
from mrt5_jax.api.results import Deletions, EncodedTexts, GeneratedText, TargetScore, TextDeletions
from mrt5_jax.compaction.chunk_counts import fixed_chunks
from mrt5_jax.config import Deletion, ExecutionConfig, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.inspection import Inspector, inspect_windows, make_inspector, split_text
from mrt5_jax.inference.answers import NOT_FINITE, Job
from mrt5_jax.inference.beam import Beam
from mrt5_jax.inference.decoding import Greedy, Search
from mrt5_jax.inference.engine import Engine
from mrt5_jax.inference.requests import InferMode, Limits, Request, request_of
from mrt5_jax.interop.hf_export import export_hf
from mrt5_jax.interop.model_dirs import complete_or_absent, write_model_dir
from mrt5_jax.interop.models import ImportedFolder
from mrt5_jax.interop.models import Model as Exchanged
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.parameters import Params
from mrt5_jax.runs.files import AnyPath, given_path
from mrt5_jax.runs.run_files import SavedRun, write_run
from mrt5_jax.selection.selectors import deletes_hard_alone, pools
from mrt5_jax.validation import LARGEST_INTEGER, SEED

BATCH_SIZE = 16
"""Texts at once on each device, as in `mrt5 infer`."""


@dataclasses.dataclass(frozen=True, eq=False)  # parameters are arrays, of which equality is no bool
class Model:
    """A model with its weights, as `mrt5_jax.load` returns it.

    Texts are lists of strings, or of bytes, which need not be UTF-8. What does not fit is refused in one line, a
    `UserError`.

    Attributes:
        config: sizes and numerics.
        params: the parameter tree (docs: ARCHITECTURE.md, Parameters).
        deletion: what the gate does when texts are generated, scored and encoded.
        name: what it was loaded from.
        step: of its checkpoint.
        run: the run that trained it; None after an import.
        execution: who chooses lengths, how many batches run together.
        capacity: the share of its length that a row may keep; None: all that the gate keeps.
        input_length: the longest input, in ids with the end of sequence.
        target_length: the longest output.

    Examples:
        >>> model = mrt5_jax.load(model_dir)
        >>> model.config.gate.layer, model.step, model.input_length
        (1, 0, 64)
    """

    config: ModelConfig
    params: Params
    deletion: Deletion
    name: str
    step: int
    run: SavedRun | None
    execution: ExecutionConfig
    capacity: float | None
    input_length: int
    target_length: int
    config_text: str = dataclasses.field(default="", repr=False)
    """The run's gin text."""
    origin: ImportedFolder | None = dataclasses.field(default=None, repr=False)
    """What an export to Hugging Face gives back besides the parameters."""

    def __repr__(self) -> str:
        kind = "ByT5" if self.config.gate is None else "MrT5"
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return (
            f"<{kind} {self.name} at step {self.step}: {count:,} parameters, {self.deletion} deletion, "
            f"inputs up to {self.input_length} ids>"
        )

    def generate(
        self,
        texts: Sequence[Text],
        max_length: int | None = None,
        *,
        search: Search | None = None,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
        truncate: bool = False,
    ) -> list[GeneratedText]:
        """Writes an output for each text; the same as `mrt5 infer`, bit for bit.

        Args:
            texts: the inputs.
            max_length: the most ids of an output, end of sequence included; None: `target_length`.
            search: `mrt5_jax.Greedy()` (the default), `mrt5_jax.Speculative(8)`, which writes the same in fewer steps
                where outputs copy from inputs, `mrt5_jax.Sampling(temperature=0.8)` or `mrt5_jax.Beam(4)`.
            seed: of sampling; a text's sample follows from it and from the text's place in the list.
            batch_size: texts at once on each device.
            truncate: whether inputs longer than `input_length` are cut; else they are refused.

        Returns:
            a `GeneratedText` for each text, in order.

        Raises:
            UserError: no texts, something that is no text, or an input that is too long.

        Examples:
            >>> found = model.generate(["#HelloWorld", "#aeiou"], max_length=8)
            >>> [one.length for one in found]  # ids of the inputs, end of sequence included
            [12, 7]
        """
        job = self.job("predict", max_length, search, seed, batch_size, truncate)
        requests = [request_of(text, None, place, job.limits) for place, text in numbered(texts, "texts")]
        return [
            GeneratedText(
                found["prediction"],
                found["prediction_ids"],
                found["score"],
                found["num_input_tokens"],
                found["num_kept_tokens"],
                found["num_dropped_tokens"],
            )
            for found in _finite(job, requests, "texts")
        ]

    def score(
        self,
        pairs: Sequence[tuple[Text, Text]],
        *,
        max_length: int | None = None,
        batch_size: int = BATCH_SIZE,
        truncate: bool = False,
    ) -> list[TargetScore]:
        """Computes how probable targets are; the same as `mrt5 infer --mode=score`, bit for bit.

        Args:
            pairs: inputs with their targets.
            max_length: the longest target in ids, end of sequence included; None: `target_length`.
            batch_size: pairs at once on each device.
            truncate: whether inputs longer than `input_length` are cut; else they are refused.

        Returns:
            a `TargetScore` for each pair, in order.

        Raises:
            UserError: no pairs, something that is no pair of texts, or one that is too long.

        Examples:
            >>> right, wrong = model.score([("#Hello", "#Hll"), ("#Hello", "#Hello")])
            >>> right.num_target_tokens, wrong.num_target_tokens
            (5, 7)
        """
        job = self.job("score", max_length, None, 0, batch_size, truncate)
        requests = []
        for place, pair in numbered(pairs, "pairs"):
            if isinstance(pair, Text) or not isinstance(pair, Sequence) or len(pair) != 2 or pair[1] is None:
                raise UserError(f'{place} is no pair: give ("input", "target")')
            source, target = pair
            requests.append(request_of(source, target, place, job.limits))
        return [
            TargetScore(
                found["score"],
                found["num_target_tokens"],
                found["num_input_tokens"],
                found["num_kept_tokens"],
                found["num_dropped_tokens"],
            )
            for found in _finite(job, requests, "pairs")
        ]

    def encode(self, texts: Sequence[Text], *, batch_size: int = BATCH_SIZE, truncate: bool = False) -> EncodedTexts:
        """Computes the encoder's output: hidden states of the positions that stay.

        Args:
            texts: the inputs.
            batch_size: texts at once on each device.
            truncate: whether inputs longer than `input_length` are cut; else they are refused.

        Returns:
            hidden states [texts slots embed], original positions [texts slots], and which slots are in use
            [texts slots], with as many slots as the fullest text keeps.

        Raises:
            UserError: no texts, something that is no text, or an input that is too long.

        Examples:
            >>> encoded = model.encode(["#Hello", "#a"])
            >>> encoded.hidden.shape[:2] == encoded.positions.shape == encoded.mask.shape
            True
        """
        job = self.job("predict", None, None, 0, batch_size, truncate)
        requests = [request_of(text, None, place, job.limits) for place, text in numbered(texts, "texts")]
        found = list(job.encodings(requests))
        slots = max(len(positions) for _, positions in found)
        hidden = np.zeros((len(found), slots, self.config.emb_dim), found[0][0].dtype)
        encoded = EncodedTexts(hidden, np.zeros((len(found), slots), np.int32), np.zeros((len(found), slots), bool))
        for row, (states, positions) in enumerate(found):
            for array, values in zip(encoded, (states, positions, True), strict=True):
                array[row, : len(positions)] = values
        if not np.isfinite(hidden).all():
            raise UserError(f"{self.name}: {NOT_FINITE.replace('this line', 'some of these texts')}")
        return encoded

    def deletions(self, texts: Sequence[Text]) -> Deletions:
        """Finds the bytes of some texts that hard deletion removes; the same as `mrt5 inspect`, bit for bit.

        Args:
            texts: of any length; one that is longer than `input_length` is cut into windows, each seen alone.

        Returns:
            a `TextDeletions` for each text: characters with their bytes, gate values and fates. It shows itself in
            colour in a notebook, and with marks in a terminal.

        Raises:
            UserError: no texts, something that is no text, or a model without gate values.

        Examples:
            >>> found = model.deletions(["#Hello"])[0]
            >>> found.ids  # bytes + 3, and the end of sequence
            [38, 75, 104, 111, 111, 114, 1]
            >>> len(found.values), len(found.keep)
            (7, 7)
        """
        if self.config.gate is None:
            raise UserError(f"{self.name} holds a ByT5, which has no gate: nothing to inspect")
        if deletes_hard_alone(self.config.gate):
            why = "pools positions, and has" if pools(self.config.gate) else "has"
            raise UserError(f"{self.name} {why} no gate values to inspect")
        if self.input_length < 2:
            raise UserError(f"input_length={self.input_length}: leaves no room for a byte; load {self.name} with more")
        found = []
        for place, text in numbered(texts, "texts"):
            data = text_bytes(text, place)
            windows = split_text(data, self.input_length)
            rows = min(len(windows), _WINDOWS_AT_ONCE)
            pieces = list(inspect_windows(self._inspector, self.params, windows, self.input_length, rows))
            if not all(math.isfinite(value) for window in pieces for piece in window for value in piece.values):
                which = "this text" if len(texts) == 1 else place
                raise UserError(f"{self.name}: gate values of {which} are not finite at step {self.step}")
            found.append(TextDeletions(pieces, self.config.gate.scale))
        return Deletions(found)

    def save(self, folder: AnyPath) -> None:
        """Writes a MODEL_DIR, which `mrt5_jax.load`, `mrt5 eval`, `infer` and `inspect` read, and training starts from.

        The weights are its step 0; of training there is nothing but the run's configuration.

        Args:
            folder: to make, local or in a bucket; it appears when it is complete.

        Raises:
            UserError: it is there already, or cannot be written.

        Examples:
            >>> model.save("runs/copy")  # doctest: +SKIP
        """
        path = given_path(folder)
        with complete_or_absent(path) as new:
            write_model_dir(new, self._exchanged)
            if self.run is not None:
                same = self.run.model == self.config  # else the gin text is another model's
                run = dataclasses.replace(self.run, model=self.config, model_dir=path)
                write_run(new, run, self.config_text if same else "")

    def export_hf(self, folder: AnyPath) -> list[str]:
        """Writes a Hugging Face folder, as `mrt5 convert hf-export` does; loaded again it is the same, bit for bit.

        Args:
            folder: to make, local or in a bucket; it appears when it is complete.

        Returns:
            what should be known of it, a sentence each.

        Raises:
            UserError: it is there already or cannot be written, or the format has no place for such a model.

        Examples:
            >>> model.export_hf("exported")  # doctest: +SKIP
            []
        """
        with complete_or_absent(given_path(folder)) as new:
            return export_hf(self._exchanged, self.name, new)

    def job(
        self,
        mode: InferMode,
        max_length: int | None = None,
        search: Search | None = None,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
        truncate: bool = False,
    ) -> Job:
        """Returns what answers requests on all devices of this process, checked.

        Args:
            mode: "predict", as `generate` does, or "score".
            max_length: the longest output or target in ids; None: `target_length`.
            search: see `generate`.
            seed: see `generate`.
            batch_size: requests at once on each device.
            truncate: whether inputs longer than `input_length` are cut.

        Raises:
            UserError: a number out of its range, or a search that is none.
        """
        check_counts(max_length=max_length, batch_size=batch_size)
        if not (isinstance(seed, numbers.Integral) and SEED.holds(seed)):
            raise UserError(f"seed={seed!r}: should be {SEED.expected}")
        if search is not None and (isinstance(search, type) or not isinstance(search, Search)):
            raise UserError(
                f"search={search!r}: give an object, as in mrt5_jax.Sampling(temperature=0.8) or mrt5_jax.Beam(4)"
            )
        if isinstance(search, Beam) and search.size > (most := LARGEST_INTEGER // self.config.vocab_size):
            raise UserError(f"beam size {search.size}: should be at most {most}")
        if batch_size % fixed_chunks(self.execution):
            raise UserError(f"batch_size={batch_size}: must be a multiple of {fixed_chunks(self.execution)} chunks")
        limits = Limits(
            self.config.vocab_size,
            self.input_length,
            int(max_length or self.target_length),
            "truncate" if truncate else "refuse",
        )
        rows = int(batch_size) * self._engine.num_shards
        return Job(self._engine, mode, limits, rows, search or Greedy(), int(seed))

    @cached_property
    def engine(self) -> Engine:
        """What computes, on batches of ids int32 [batch length] with pads 0, where `params` are (docs/INFERENCE.md)."""
        return Engine(self.config, self.params, self.deletion, self.execution, self.capacity)

    @cached_property
    def _engine(self) -> Engine:
        return self.engine.on_all_devices()

    @property
    def _exchanged(self) -> Exchanged:
        return Exchanged(self.config, jax.tree.map(np.asarray, self.params), self.origin, step=self.step)

    @cached_property
    def _inspector(self) -> Inspector:
        return make_inspector(MrT5(self.config, self.execution))


_WINDOWS_AT_ONCE = 8


def _finite(job: Job, requests: Sequence[Request], name: str) -> Iterator[dict[str, Any]]:
    answers = (answer for window in job.answers_to(requests) for answer in window)
    for number, answer in enumerate(answers):
        if "error" in answer:
            raise UserError(f"{name}[{number}]: {answer['error'].replace('this line', 'it')}")
        yield answer
