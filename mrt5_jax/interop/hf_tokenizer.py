"""What transformers' Auto classes read beside the weights: ByT5's tokenizer, and how generation begins and ends."""

import json
from pathlib import Path
from typing import Any

from mrt5_jax.data.vocabulary import BYTE_OFFSET, EOS_ID, NUM_BYTES, PAD_ID
from mrt5_jax.errors import UserError
from mrt5_jax.interop.hf_config import TOKENIZER_CLASS

_SPECIAL_TOKENS = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def check_vocabulary(vocab_size: int) -> None:
    """Raises a UserError where ByT5's tokenizer makes ids that a model of this size lacks."""
    if vocab_size < BYTE_OFFSET + NUM_BYTES:
        raise UserError(
            f"the model has {vocab_size} rows, and ByT5's tokenizer makes {BYTE_OFFSET + NUM_BYTES} ids: "
            "only models of bytes can be exported"
        )


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Writes tokenizer_config.json and special_tokens_map.json of ByT5; rows above the bytes are its extra ids.

    Inputs have no maximal length, as in ByT5: relative positions have none.
    """
    check_vocabulary(vocab_size)
    extra_ids = vocab_size - BYTE_OFFSET - NUM_BYTES
    special: dict[str, Any] = {
        **_SPECIAL_TOKENS,
        "additional_special_tokens": [f"<extra_id_{number}>" for number in range(extra_ids)],
    }
    _write(folder / "tokenizer_config.json", {"tokenizer_class": TOKENIZER_CLASS, "extra_ids": extra_ids, **special})
    _write(folder / "special_tokens_map.json", special)


def write_generation_config(folder: Path, max_new_tokens: int | None = None) -> None:
    """Writes generation_config.json: from the pad 0 to the end of sequence 1, or to so many tokens."""
    fields = {"decoder_start_token_id": PAD_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    if max_new_tokens is not None:
        fields["max_new_tokens"] = max_new_tokens
    _write(folder / "generation_config.json", fields)


def _write(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2, allow_nan=False) + "\n", encoding="utf-8")
