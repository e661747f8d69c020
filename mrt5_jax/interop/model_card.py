"""The README.md of an exported folder: what the model is, how to load it, and the figures of its run."""

import json
from collections.abc import Mapping
from typing import Any

from mrt5_jax.config import ModelConfig
from mrt5_jax.runs.files import AnyPath, as_path, exists, read_bytes
from mrt5_jax.runs.model_dir import METRICS
from mrt5_jax.runs.run_files import read_run
from mrt5_jax.selection.selectors import deletion_threshold

_FIGURES = ("loss", "bits_per_byte", "token_accuracy", "sequence_accuracy", "deletion_rate", "kept_length")
"""Of metrics.jsonl, what a reader of the card asks first."""

_WITH_GATE = """Before encoder layer {layer} a delete gate decides which bytes the rest of the model sees. In training
it deletes softly, otherwise hard: what it deletes is removed, and costs nothing from there on.

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained(FOLDER, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
batch = tokenizer(["Which of these bytes stay?"], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True))
print(model(**batch, decoder_input_ids=batch["input_ids"][:, :1]).kept_mask)
```

`deletion="soft"`, `"hard"` or `"none"` chooses by hand, in `model(...)` and in `model.generate(...)`. To fine-tune the
gate, add `alpha * (output.gate_values * attention_mask).sum() / attention_mask.sum()` to the loss: the larger alpha,
the more is deleted.
"""
_WITHOUT_GATE = """
```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
batch = tokenizer(["Some text."], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True))
```
"""


def model_card(model_dir: AnyPath, config: ModelConfig, step: int) -> str:
    """Returns the README.md of a MODEL_DIR's model, with the figures that its run logged up to a step.

    Raises:
        UserError: the saved configuration of the run cannot be read.
    """
    kind = "ByT5" if config.gate is None else "MrT5"
    tags = f"tags: [{kind.lower()}, byte-level, text2text-generation]"
    lines = ["---", "library_name: transformers", tags, "---", ""]
    lines += [f"# {kind}: {as_path(model_dir).name}", ""]
    lines += [f"A byte-level {kind} from mrt5_jax, step {step:,}: UTF-8 bytes in, UTF-8 bytes out.", ""]
    if config.gate is None:
        lines.append(_WITHOUT_GATE)
    else:
        lines.append(_WITH_GATE.format(layer=config.gate.layer))
    lines += _table("size", _sizes(config))
    lines += _table("training", _training(model_dir))
    lines += _table("figure", _figures(model_dir, step))
    return "\n".join(lines)


def _table(title: str, rows: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    return [f"| {title} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items()), ""]


def _sizes(config: ModelConfig) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        "encoder and decoder layers": f"{config.num_encoder_layers} and {config.num_decoder_layers}",
        "embedding": config.emb_dim,
        "heads": f"{config.num_heads} of {config.head_dim}",
        "MLP": config.mlp_dim,
        "softmax1": "yes" if config.softmax1 else "no",
    }
    if config.gate is not None:
        sizes["gate"] = (
            f"{config.gate.kind}, at the input of encoder layer {config.gate.layer}, values in "
            f"({config.gate.scale:g}, 0), kept above {deletion_threshold(config.gate):g}"
        )
    return sizes


def _training(model_dir: AnyPath) -> dict[str, Any]:
    run = read_run(model_dir)
    if run is None:
        return {}
    return {
        "task": run.data.train_task,
        "rows of a batch": run.data.batch_size,
        "input and target length": f"{run.data.input_length} and {run.data.target_length}",
        "deletion": run.training.deletion,
    }


def _figures(model_dir: AnyPath, step: int) -> dict[str, str]:
    """Returns the last training figures and the last of each evaluation, of lines up to a step."""
    path = as_path(model_dir) / METRICS
    if not exists(path):
        return {}
    figures: dict[str, str] = {}
    for line in read_bytes(path).decode().splitlines():
        try:
            metrics = json.loads(line)
        except ValueError:  # a line that a killed run left half-written
            continue
        if metrics.get("step", 0) > step:
            break
        for name, value in metrics.items():
            if name.rpartition("/")[2] in _FIGURES and isinstance(value, int | float):
                figures[name if "/" in name else f"training {name}"] = f"{value:.6g} at step {metrics['step']:,}"
    return figures
