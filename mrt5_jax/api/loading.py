"""From a name to a model: a MODEL_DIR, a Hugging Face folder, or a model of its hub."""

import dataclasses
import logging
import numbers
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrt5_jax import toy
from mrt5_jax.api.given import check_counts
from mrt5_jax.api.model import Model
from mrt5_jax.compaction.ladder import make_ladder
from mrt5_jax.compilation_cache import keep_programs_from_now_on
from mrt5_jax.config import Deletion, ExecutionConfig, GateConfig, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.inference.run_defaults import (
    INFERENCE_DELETIONS,
    capacity_of,
    default_deletion,
    execution_of,
    limits_of,
)
from mrt5_jax.interop.finiteness import describe_finiteness
from mrt5_jax.interop.hf import CONFIG, read_hf
from mrt5_jax.interop.hub import is_hub_id, source_folder
from mrt5_jax.interop.model_dirs import read_origin
from mrt5_jax.interop.models import ImportedFolder
from mrt5_jax.model.parameters import Params
from mrt5_jax.model.precision import check_precision
from mrt5_jax.runs.files import AnyPath, FilePath, as_path, exists, explained, given_path, read_bytes
from mrt5_jax.runs.model_dir import MODEL_CONFIG, read_model_config
from mrt5_jax.runs.restoring import restore_params
from mrt5_jax.runs.run_files import CONFIG_GIN, SavedRun, read_run
from mrt5_jax.runs.stored_threshold import THRESHOLD_FILE, StoredThreshold, read_threshold
from mrt5_jax.selection.deletions import DELETIONS
from mrt5_jax.selection.selectors import check_deletion, check_stride, selector_rule
from mrt5_jax.validation import check_gate, check_ranges

_KINDS = 'give a MODEL_DIR of train or convert, a Hugging Face folder, OWNER/NAME on its hub, or "toy"'
_log = logging.getLogger(__name__)


class Weights(NamedTuple):
    """What is read of a model besides its configuration."""

    params: Params
    step: int
    origin: ImportedFolder | None = None
    """Of an import, what an export to Hugging Face gives back."""


@dataclasses.dataclass(frozen=True)
class DescribedModel:
    """A model that is there; fields are those of `Model`."""

    name: str
    config: ModelConfig
    run: SavedRun | None
    config_text: str
    read: Callable[[int | None], Weights]
    """Reads the weights of a step, by default of the newest."""
    stored: StoredThreshold | None
    """What takes the place of the trained threshold where no other is given."""

    def prepare(
        self,
        *,
        deletion: Deletion | None = None,
        threshold: float | None = None,
        execution: ExecutionConfig | None = None,
        capacity: float | None = None,
        input_length: int | None = None,
        target_length: int | None = None,
    ) -> "PreparedModel":
        """Completes how the model is to be used, and checks it; see `load` for the arguments.

        Returns:
            a `PreparedModel`, whose weights are not read yet.

        Raises:
            UserError: it cannot be used like this.
        """
        check_counts(input_length=input_length, target_length=target_length)
        for field, value in (("threshold", threshold), ("capacity", capacity)):
            if value is not None and not isinstance(value, numbers.Real):
                raise UserError(f"{field}={value!r}: should be a number")
        stored = self.stored if threshold is None else None
        if stored is not None:
            config = with_stored_threshold(self.config, stored, self.name)
            _log.warning("%s", stored.line(self.name))
        else:
            config = self.config if threshold is None else with_threshold(self.config, threshold, self.name)
        limits = limits_of(self.run, config.vocab_size, input_length, target_length)
        prepared = PreparedModel(
            self.name,
            config,
            self.run,
            self.config_text,
            self.read,
            stored,
            _checked_deletion(config, deletion, self.name),
            execution or execution_of(self.run),
            capacity_of(self.run) if capacity is None else float(capacity),
            int(limits.input_length),
            int(limits.target_length),
        )
        check_precision(config)
        check_stride(config.gate, prepared.input_length, "input_length")
        make_ladder(
            prepared.input_length, prepared.execution, "cpu", prepared.capacity
        )  # refuses what leaves no ladder
        return prepared


@dataclasses.dataclass(frozen=True)
class PreparedModel(DescribedModel):
    """A model that is there, and how it is to be used; its weights are not read yet."""

    deletion: Deletion
    execution: ExecutionConfig
    capacity: float | None
    input_length: int
    target_length: int

    def load(self, step: int | None = None) -> Model:
        """Reads the weights.

        Args:
            step: which checkpoint of a MODEL_DIR; None: the newest.

        Returns:
            a `Model`.

        Raises:
            UserError: there is no such step, or it cannot be read.
        """
        weights = self.read(step)
        own = [field.name for field in dataclasses.fields(self) if field.name not in ("read", "stored")]
        fields = {name: getattr(self, name) for name in own}
        params = jax.tree.map(jnp.asarray, weights.params)
        return Model(params=params, step=weights.step, origin=weights.origin, **fields)


def load(
    source: AnyPath,
    *,
    step: int | None = None,
    deletion: Deletion | None = None,
    threshold: float | None = None,
    execution: ExecutionConfig | None = None,
    capacity: float | None = None,
    input_length: int | None = None,
    target_length: int | None = None,
) -> Model:
    """Loads a model, to generate, to score, and to see what its gate deletes.

    Compiled programs are kept on disk from then on (docs/compiling.md), unless JAX was told otherwise.

    Args:
        source: a MODEL_DIR that `mrt5 train` or `mrt5 convert` wrote or a Hugging Face folder of ByT5 or MrT5, local or
            in a bucket; a model of the Hugging Face hub, OWNER/NAME or OWNER/NAME@REVISION (with the extra hf); or
            "toy", a small MrT5 that comes with the package and writes strings of letters without their vowels.
        step: which checkpoint of a MODEL_DIR; None: the newest.
        deletion: what the gate does: "hard" removes positions (the default of a model with a gate), "soft" adds gate
            values to attention scores, "none" ignores the gate (the default, and the only one, of a ByT5).
        threshold: hard deletion keeps positions with a gate value above it; None: the one that `mrt5 eval
            --store_threshold` has left in the MODEL_DIR, which is said in a line, or else the trained one. Gate values
            lie between `config.GateConfig.scale` (-30), which deletes, and 0, which keeps.
        execution: who chooses lengths, and how many batches run together; None: as the model was trained.
        capacity: the share of its length that a row may keep at most; None: as the model was trained, or no limit.
        input_length: the longest input in ids, end of sequence included; None: as trained, or 1024.
        target_length: the longest output in ids; None: as trained, or 256.

    Returns:
        a `Model`.

    Raises:
        UserError: there is no such model, step, deletion or threshold, or it cannot be read; in one line, with the
            remedy.

    Examples:
        >>> model = mrt5_jax.load(model_dir)
        >>> model.deletion, model.step
        ('hard', 0)
    """
    keep_programs_from_now_on()
    prepared = describe_model(source).prepare(
        deletion=deletion,
        threshold=threshold,
        execution=execution,
        capacity=capacity,
        input_length=input_length,
        target_length=target_length,
    )
    return prepared.load(step)


def describe_model(source: AnyPath) -> DescribedModel:
    """Finds the model of that name, without its weights.

    Args:
        source: see `load`.

    Returns:
        a `DescribedModel`.

    Raises:
        UserError: there is none, or what describes it cannot be read.
    """
    if not isinstance(source, str | os.PathLike) or not str(source):
        raise UserError(f"a model is named by a string, not by {source!r}: {_KINDS}")
    name = given_path(source)
    folder = as_path(name)
    with explained(name):
        if exists(folder / MODEL_CONFIG):
            return _of_model_dir(name, folder)
        if exists(folder / CONFIG) or is_hub_id(name):
            return _of_hugging_face(name)
        if name == toy.TOY and not exists(folder):
            return describe_toy()
        found = f"nor is {CONFIG}" if exists(folder) else "nothing has that name"
    raise UserError(f"{folder / MODEL_CONFIG} is not there, {found}: {_KINDS}")


def _of_model_dir(name: str, folder: FilePath) -> DescribedModel:
    def read(step: int | None) -> Weights:
        restored = restore_params(folder, step)
        return Weights(restored.params, restored.step, read_origin(folder))

    config, run, gin = read_model_config(folder), read_run(folder), folder / CONFIG_GIN
    stored = read_threshold(folder)
    with explained(gin):
        text = read_bytes(gin).decode(errors="replace") if exists(gin) else ""
    return DescribedModel(name, config, run, text, read, stored)


def _of_hugging_face(name: str) -> DescribedModel:
    with source_folder(name) as folder:
        imported = read_hf(folder)
    if imported.not_finite:
        lost = describe_finiteness(imported.not_finite)
        raise UserError(f"{name}: {lost}: import it by `mrt5 convert hf-import --allow_non_finite`, and load that")
    for note in imported.notes:
        _log.warning("%s: %s", name, note)

    def read(step: int | None) -> Weights:
        if step is not None:
            raise UserError(f"{name} is a model of Hugging Face, which has no steps: leave step={step} out")
        return Weights(imported.params, 0, imported.source)

    return DescribedModel(name, imported.config, None, "", read, None)


def describe_toy(folder: Path = toy.FOLDER) -> DescribedModel:
    """Returns the toy that comes with the package.

    Args:
        folder: where its files lie; other ones when it is made.
    """
    config, run = read_model_config(folder), read_run(folder)
    assert run is not None, "a toy is written with the run that trained it"

    def read(step: int | None) -> Weights:
        only = run.training.num_steps
        if step not in (None, only):
            raise UserError(f"{toy.TOY} has no step {step}; it has {only}")
        return Weights(toy.read_params(folder), only)

    text = (folder / CONFIG_GIN).read_text(encoding="utf-8")
    return DescribedModel(toy.TOY, config, run, text, read, None)


def with_threshold(config: ModelConfig, threshold: float, name: str) -> ModelConfig:
    """Returns a model with another threshold.

    Args:
        config: the model's.
        threshold: hard deletion keeps gate values above it.
        name: what a message calls the model.

    Raises:
        UserError: it compares no gate values, or none lie there.
    """
    gate = gate_with_values(config, f"threshold={threshold}", name)
    gate = dataclasses.replace(gate, threshold=float(threshold))
    check_gate(gate, config.num_encoder_layers)
    check_ranges(gate)
    return dataclasses.replace(config, gate=gate)


def with_stored_threshold(config: ModelConfig, stored: StoredThreshold, name: str) -> ModelConfig:
    """Returns a model with the threshold that its MODEL_DIR is to be used with.

    Args:
        config: the model's.
        stored: what the MODEL_DIR says of it.
        name: the MODEL_DIR.

    Raises:
        UserError: the model cannot be used with it; the message names the file.
    """
    try:
        return with_threshold(config, stored.threshold, name)
    except UserError as error:
        raise UserError(f"{as_path(name) / THRESHOLD_FILE} is of another model ({error}): remove it") from None


def gate_with_values(config: ModelConfig, given: str, name: str) -> GateConfig:
    """Returns the gate of a model that compares gate values with a threshold.

    Args:
        config: the model's.
        given: what asked for gate values, as in "threshold=-5.0".
        name: what a message calls the model.

    Raises:
        UserError: the model compares none.
    """
    gate = config.gate
    if gate is None or "threshold" not in selector_rule(gate).reads:
        what = "has no gate" if gate is None else f"selects by the rule {gate.kind!r}"
        raise UserError(f"{given}: {name} {what}, and so no gate values to compare: leave it out")
    return gate


def _checked_deletion(config: ModelConfig, deletion: Deletion | None, name: str) -> Deletion:
    """The deletion, or what the model is made for."""
    if deletion is None:
        return default_deletion(config.gate)
    if deletion not in INFERENCE_DELETIONS:
        raise UserError(f"deletion={deletion!r}: should be {' or '.join(map(repr, INFERENCE_DELETIONS))}")
    if config.gate is None and DELETIONS[deletion].heeds_selector:
        raise UserError(f"deletion={deletion!r}: {name} is a ByT5, which has no gate: leave it out")
    check_deletion(config.gate, deletion, "deletion")
    return deletion
