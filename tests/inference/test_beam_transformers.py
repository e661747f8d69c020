"""Beam search against Hugging Face's, on a random PyTorch T5 imported at test time."""

from pathlib import Path

import numpy as np
import pytest

from mrt5_jax.inference.beam import Beam
from mrt5_jax.inference.engine import Engine
from mrt5_jax.interop.hf import read_hf

LENGTHS, MAX_LENGTH, SIZE = [12, 7, 3, 12], 8, 3


def test_beams_are_those_of_transformers_in_a_batch_and_alone(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch: the parity extra on Python 3.11")
    transformers = pytest.importorskip("transformers", reason="needs the parity extra")
    config = transformers.T5Config(
        vocab_size=384,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(config).eval()
    model.lm_head.weight = torch.nn.Parameter(torch.empty(384, 32))  # transformers 5 ties every T5's
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 2 * parameter.shape[1] ** -0.5)
        # An end of sequence that is likely where one of three other tokens is.
        model.lm_head.weight[1] = model.lm_head.weight[[105, 183, 240]].sum(0)
    model.save_pretrained(tmp_path)

    tokens = np.zeros((len(LENGTHS), max(LENGTHS)), np.int32)
    rng = np.random.default_rng(0)
    for row, length in zip(tokens, LENGTHS, strict=True):
        row[:length] = [*rng.integers(3, 259, length - 1), 1]
    with torch.no_grad():
        theirs = model.generate(
            torch.tensor(tokens, dtype=torch.long),
            attention_mask=torch.tensor(tokens > 0, dtype=torch.long),
            num_beams=SIZE,
            early_stopping=True,
            do_sample=False,
            max_new_tokens=MAX_LENGTH,
        ).numpy()[:, 1:]
    imported = read_hf(tmp_path)
    engine = Engine(imported.config, imported.params)
    ours = engine.generate(tokens, MAX_LENGTH, Beam(SIZE))
    assert len(set(ours.num_tokens.tolist())) > 1, "rows should end at different times"
    for row, count in enumerate(ours.num_tokens.tolist()):
        # What transformers writes after a sequence's end is another matter.
        np.testing.assert_array_equal(ours.tokens[row, :count], theirs[row, :count])
        assert count == MAX_LENGTH or ours.tokens[row, count - 1] == 1
        assert not ours.tokens[row, count:].any()
        alone = engine.generate(tokens * (np.arange(len(tokens)) == row)[:, None], MAX_LENGTH, Beam(SIZE))
        np.testing.assert_array_equal(alone.tokens[row], ours.tokens[row])
