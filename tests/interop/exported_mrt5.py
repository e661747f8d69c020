"""How far an exported MrT5 is from recorded numbers in whatever transformers is installed; it needs torch, not jax.

    python tests/interop/exported_mrt5.py FOLDER RECORD.npz [GRADIENTS.safetensors]

The record has the arrays of `tests/interop/test_exported_mrt5.py` or of a golden case.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

PIPELINE = "text2text-generation"
"""transformers 5 has none."""


def load(folder: Path | str, **kwargs):
    """The exported model, as a user loads it; nothing may be missing or left over."""
    model, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True, **kwargs
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert type(model).__name__ == "MrT5ForConditionalGeneration"
    return model.eval()


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    """The largest difference over the largest expected value."""
    return float(np.abs(found.detach().numpy() - expected).max() / np.abs(expected).max())


def errors(
    folder: Path | str, record: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """The worst error of every quantity that is recorded; of ids and texts, how many differ."""
    model = load(folder)
    ids, mask = torch.tensor(record["input_ids"]), torch.tensor(record["attention_mask"])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(record["labels"])}
    found = {}
    with torch.no_grad():
        for deletion in ("soft", "hard"):
            output = model(**batch, deletion=deletion)
            found[f"{deletion} logits"] = relative(output.logits, record[f"{deletion}_logits"])
            kept = output.kept_mask.sum(1).numpy()
        assert np.array_equal(kept, record["kept_per_row"])
        assert output.encoder_last_hidden_state.shape[1] == kept.max() < ids.shape[1], "hard deletion shortens"
    if gradients:
        output = model(**batch, deletion="soft")
        gate = (output.gate_values * mask).sum() / mask.sum()
        (output.loss + float(record["alpha"]) * gate).backward()
        found["soft gradients"] = max(
            relative(parameter.grad, gradients[name]) for name, parameter in model.named_parameters()
        )
    for search, arguments in {
        "greedy": {"do_sample": False, "num_beams": 1},
        "beam": {"do_sample": False, "num_beams": 4, "early_stopping": True},
    }.items():
        if f"{search}_hard" in record:
            expected = record[f"{search}_hard"]
            limit = expected.shape[1] - 1
            made = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=limit, **arguments).numpy()
            made = np.pad(made, ((0, 0), (0, expected.shape[1] - made.shape[1])))
            found[f"{search} rows that differ"] = float((made != expected).any(axis=1).sum())
    if PIPELINE in transformers.pipelines.PIPELINE_REGISTRY.get_supported_tasks():
        found["texts of the pipeline that differ"] = float(differing_pipeline_texts(folder, model))
    return found


def differing_pipeline_texts(folder: Path | str, model) -> int:
    """How many texts transformers 4's text2text pipeline completes otherwise than `generate` does."""
    texts = ["Which of these bytes stay?", "é", "three rows of three lengths"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    limits = {"max_new_tokens": 8, "do_sample": False, "num_beams": 1}  # the pipeline searches with 4 beams otherwise
    made = model.generate(**tokenizer(texts, return_tensors="pt", padding=True), **limits)
    expected = tokenizer.batch_decode(made, skip_special_tokens=True)
    pipeline = transformers.pipeline(PIPELINE, model=str(folder), trust_remote_code=True, batch_size=3)
    answers = [answer["generated_text"] for answer in pipeline(texts, **limits)]
    assert len(answers) == len(expected)
    return sum(answer != text for answer, text in zip(answers, expected, strict=True))


def main(folder: str, record: str, gradients: str | None = None) -> None:
    """Prints a table row of every quantity."""
    arrays = dict(np.load(record))
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    for quantity, worst in errors(folder, arrays, load_file(gradients) if gradients else {}).items():
        print(f"| {versions} | {quantity} | {worst:.1e} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
