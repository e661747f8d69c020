"""How far our numbers are from the authors' and T5X's, on recorded cases: `python -m mrt5_jax.tools.parity FOLDER`.

A case is a small random model with the inputs, outputs and gradients that the original code computed for it (float64
throughout for Hugging Face's form, float32 for T5X's). Errors are the largest difference over the largest recorded
value of the array; for ids and counts, the number that differ.
"""

import argparse
import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from safetensors.numpy import load_file

from mrt5_jax.config import Deletion, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.inference.engine import greedy
from mrt5_jax.interop import names
from mrt5_jax.interop.hf import read_hf
from mrt5_jax.interop.t5x import read_t5x
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import compact_full, compact_to, run_prefix
from mrt5_jax.objectives import losses
from mrt5_jax.selection.deletions import DELETIONS, removes_positions
from mrt5_jax.selection.protocol import Selection
from mrt5_jax.selection.selector_rule import GATE_MEAN
from mrt5_jax.selection.survivors import handed_signals, survivors

Precision = Literal["float32", "float64", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "float64", "bfloat16")

_TOLERANCES = {
    "float32": {"outputs": 1e-4, "gradients": 1e-3},
    "float64": {"outputs": 1e-9, "gradients": 1e-7},
    "bfloat16": {"outputs": 1e-2},
}
_FLOAT32_RECORD = 1e-6
"""Tolerance of the one number that was recorded in float32."""

_GRADIENTS = ("grads.safetensors", "soft_grads.safetensors")


class Error(NamedTuple):
    """The worst error of one quantity of one case."""

    case: str
    precision: Precision
    quantity: str
    worst: float
    tolerance: float


class _Recorded(NamedTuple):
    """A case as it was recorded: the model, its batch and everything that io.npz holds."""

    name: str
    config: ModelConfig
    params: names.Params
    batch: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]


class _Computed(NamedTuple):
    """What our model gives for a batch."""

    loss: Float[Array, ""]
    gate: Float[Array, ""] | None
    """Mean gate value over the input positions."""
    logits: Float[Array, "batch target vocab"]
    hidden: Float[Array, "batch slots embed"]
    keep: Bool[Array, "batch length"]
    gate_logits: Any
    """[batch length], or None without a gate."""
    selection: Selection | None
    gradients: Any = None
    """Of the parameters; None where none were recorded: under hard deletion and in bfloat16."""


def measure(folder: str | Path, precision: Precision) -> list[Error]:
    """Measures the errors of a recorded case.

    Args:
        folder: with config.json, model.safetensors and io.npz, or with checkpoint_STEP and io.npz.
        precision: of the computation; float64 is parameters and activations, bfloat16 is activations, with which only
            losses are compared. Greedy ids are compared, and T5X's cases measured, in float32.

    Raises:
        UserError: the folder is no case, or of a model that is not ours.
    """
    folder = Path(folder)
    if not (folder / "io.npz").is_file():
        raise UserError(f"{folder} is no recorded case: io.npz is not there")
    with jax.enable_x64(precision == "float64"):
        if (folder / "config.json").is_file():
            return _measure_hugging_face(_read_hugging_face(folder), folder, precision)
        return _measure_t5x(_read_t5x(folder)) if precision == "float32" else []


def _read_hugging_face(folder: Path) -> _Recorded:
    imported = read_hf(folder)
    arrays = dict(np.load(folder / "io.npz"))
    labels, mask = arrays["labels"], arrays["attention_mask"]
    targets = np.where(labels < 0, 0, labels)
    batch = {
        "encoder_input_tokens": np.where(mask > 0, arrays["input_ids"], 0),
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": labels >= 0,
    }
    batch = {name: array.astype(np.int32) for name, array in batch.items()}
    return _Recorded(folder.name, imported.config, imported.params, batch, arrays)


def _read_t5x(folder: Path) -> _Recorded:
    imported = read_t5x(folder)
    arrays = dict(np.load(folder / "io.npz"))
    batch = {name: array for name, array in arrays.items() if name.endswith("_tokens")}
    batch["decoder_loss_weights"] = (batch["decoder_target_tokens"] > 0).astype(np.int32)
    return _Recorded(folder.name, imported.config, imported.params, batch, arrays)


def _measure_t5x(case: _Recorded) -> list[Error]:
    computed = _compute(case.config, case.params, case.batch, "none", _alpha(case))
    scored = case.batch["decoder_loss_weights"] > 0  # T5X masks padded targets and inputs entirely
    present = case.batch["encoder_input_tokens"] > 0
    tolerance = _TOLERANCES["float32"]["outputs"]
    worst = {
        "logits": _relative(computed.logits, case.arrays["logits"], scored),
        "encoder hidden states": _relative(computed.hidden, case.arrays["encoder_output"], present),
    }
    return [Error(case.name, "float32", quantity, error, tolerance) for quantity, error in worst.items()]


def _measure_hugging_face(case: _Recorded, folder: Path, precision: Precision) -> list[Error]:
    config, params = _in_precision(case, precision)
    case = case._replace(config=config, params=params)
    deletions: list[tuple[Deletion, str]] = [("soft", "soft_"), ("hard", "hard_")] if config.gate else [("none", "")]
    outputs: dict[str, float] = {}
    shares: dict[str, float] = {}
    counts: dict[str, float] = {}
    gradients: dict[str, float] = {}
    for deletion, prefix in deletions:
        computed = _compute(config, params, case.batch, deletion, _alpha(case))
        said = prefix.replace("_", " ")
        outputs[f"{said}loss"] = _relative(computed.loss, case.arrays[f"{prefix}loss"])
        if precision == "bfloat16":
            continue
        outputs[f"{said}logits"] = _relative(computed.logits, case.arrays[f"{prefix}logits"])
        outputs[f"{said}encoder hidden states"] = _hidden_error(case, computed, prefix)
        if removes_positions(deletion):
            counts["kept positions per row"] = _differing(jnp.sum(computed.keep, axis=1), case.arrays["kept_per_row"])
            shares["percent deleted"] = _deleted_error(case, computed)
            continue
        if DELETIONS[deletion].biases_attention:
            outputs |= _gate_errors(case, computed)
        gradients[f"{said}gradients"] = _gradient_error(case, computed, folder)
    if precision == "float32":
        counts["greedy ids"] = _greedy_error(case)
    tolerances = _TOLERANCES[precision]
    kinds = [
        (outputs, tolerances["outputs"]),
        (gradients, tolerances.get("gradients", 0.0)),
        (shares, _FLOAT32_RECORD),
        (counts, 0.0),
    ]
    return [
        Error(case.name, precision, quantity, worst, tolerance)
        for errors, tolerance in kinds
        for quantity, worst in errors.items()
    ]


def _in_precision(case: _Recorded, precision: Precision) -> tuple[ModelConfig, names.Params]:
    wide = "float64" if precision == "float64" else "float32"
    config = dataclasses.replace(case.config, dtype=precision, param_dtype=wide)
    return config, jax.tree.map(lambda array: array.astype(wide), case.params)


@functools.partial(jax.jit, static_argnames=("config", "deletion"))
def _compute(
    config: ModelConfig, params: names.Params, batch: dict[str, Any], deletion: Deletion, alpha: Float[Array, ""]
) -> _Computed:
    """Everything that is compared, in one program; the gradient is of CE + alpha * mean gate."""
    model, tokens = MrT5(config), jnp.asarray(batch["encoder_input_tokens"])

    def run(params: names.Params) -> tuple[Float[Array, ""], _Computed]:
        prefix = run_prefix(model, params, tokens)
        found = survivors(prefix.mask, prefix.selection, deletion)
        signals = handed_signals(prefix.selection, deletion)
        if removes_positions(deletion):
            compact = compact_to(prefix.hidden, found, tokens.shape[1], signals)
        else:
            compact = compact_full(prefix.hidden, prefix.mask, found, signals)
        encoded: Any = model.apply({"params": params}, compact, method="suffix")
        decoded: Any = model.apply({"params": params}, encoded, batch["decoder_input_tokens"], method="decode")
        weights = batch["decoder_loss_weights"]
        denominators = losses.count_denominators(weights)
        target_losses = losses.cross_entropy(decoded.logits, batch["decoder_target_tokens"], weights)
        target = losses.target_term(losses.sum_rows(target_losses, weights), denominators)
        gate = gate_logits = None
        if prefix.selection is not None:
            total, count = prefix.selection.penalties[GATE_MEAN]
            gate = jnp.sum(total) / jnp.sum(count)
            gate_logits = model.apply({"params": params}, prefix.hidden, method=_gate_logits)
        objective = target if gate is None else target + alpha * gate
        return objective, _Computed(
            target, gate, decoded.logits, encoded.hidden, found.keep, gate_logits, prefix.selection
        )

    if removes_positions(deletion) or config.dtype == "bfloat16":
        return run(params)[1]
    (_, computed), gradients = jax.value_and_grad(run, has_aux=True)(params)
    return computed._replace(gradients=gradients)


def _gate_logits(model: MrT5, hidden: Float[Array, "batch length embed"]) -> Float[Array, "batch length"]:
    return model.encoder.gate.logits(hidden)


def _alpha(case: _Recorded) -> Float[Array, ""]:
    """Weight of the mean gate value in the objective whose gradients were recorded."""
    return jnp.asarray(np.float64(case.arrays.get("alpha", 0.0)))


def _hidden_error(case: _Recorded, computed: _Computed, prefix: str) -> float:
    """Hidden states of input positions, or, under hard deletion, of the survivors: both sides move them together."""
    recorded = case.arrays[f"{prefix}encoder_last_hidden_state"]
    hidden = computed.hidden[:, : recorded.shape[1]]
    if prefix == "hard_":
        compare = np.arange(recorded.shape[1])[None] < case.arrays["kept_per_row"][:, None]
    else:
        compare = case.arrays["attention_mask"] > 0
    return _relative(hidden, recorded, compare)


def _deleted_error(case: _Recorded, computed: _Computed) -> float:
    present = case.batch["encoder_input_tokens"] > 0
    deleted = 100 * (1 - np.sum(np.asarray(computed.keep)) / np.sum(present))
    return _relative(deleted, case.arrays["percent_deleted_nonpad"])


def _gate_errors(case: _Recorded, computed: _Computed) -> dict[str, float]:
    assert computed.selection is not None
    present = case.batch["encoder_input_tokens"] > 0
    return {
        "gate logits": _relative(computed.gate_logits, case.arrays["delete_gate_logits"], present),
        "gate values": _relative(computed.selection.signals.key_bias, case.arrays["delete_gate_output"], present),
        "mean gate value": _relative(computed.gate, case.arrays["gate_mean_loss"]),
    }


def _gradient_error(case: _Recorded, computed: _Computed, folder: Path) -> float:
    """The worst parameter's error."""
    gradients = names.unstack_layers(jax.tree.map(np.asarray, computed.gradients), case.config)
    (file,) = [folder / name for name in _GRADIENTS if (folder / name).is_file()]
    recorded = load_file(file)
    worst = 0.0
    for tensor in names.tensors(case.config):
        other = recorded[tensor.hugging_face]
        worst = max(worst, _relative(gradients[tensor.name], other.T if tensor.orientation == "transposed" else other))
    return worst


def _greedy_error(case: _Recorded) -> float:
    """Ids that differ, of a batch decoded together; recorded rows were decoded alone and begin with the start token."""
    recorded = case.arrays["greedy_hard" if case.config.gate else "greedy"][:, 1:]
    ours = greedy(case.config, case.params, case.batch["encoder_input_tokens"], recorded.shape[1])
    return _differing(ours.tokens, recorded)


def _relative(ours: Any, recorded: np.ndarray, where: np.ndarray | None = None) -> float:
    ours = np.asarray(ours, np.float64)
    if where is not None:
        ours, recorded = ours[where], recorded[where]
    return float(np.max(np.abs(ours - recorded)) / np.max(np.abs(recorded)))


def _differing(ours: Any, recorded: np.ndarray) -> float:
    return float(np.sum(np.asarray(ours) != recorded))


def table(errors: list[Error]) -> list[str]:
    """Writes the errors as the lines of a Markdown table."""
    lines = ["| case | precision | quantity | worst error | tolerance |", "|---|---|---|---|---|"]
    for error in errors:
        limit = f"{error.tolerance:.0e}" if error.tolerance else "0 differ"
        lines.append(f"| {error.case} | {error.precision} | {error.quantity} | {error.worst:.1e} | {limit} |")
    return lines


def main() -> int:
    """Prints the table of all cases of a folder; exit code 1 where an error is above its tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of recorded cases, one subfolder each")
    folder = parser.parse_args().folder
    cases = sorted(path.parent for path in folder.glob("*/io.npz"))
    errors: list[Error] = []
    refused: list[str] = []
    for case in cases:
        try:
            errors += [error for precision in PRECISIONS for error in measure(case, precision)]
        except UserError as error:
            refused.append(f"- {case.name}: {error}")
    print("\n".join(table(errors)))
    if refused:
        print("\nRefused:\n\n" + "\n".join(refused))
    return 1 if any(error.worst > error.tolerance for error in errors) else 0


if __name__ == "__main__":
    raise SystemExit(main())
