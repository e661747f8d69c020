"""Greedy decoding of MrT5 against the same dimensions in PyTorch: `python -m benchmarks.decoding`.

64 tokens from inputs of 1024 bytes, batch 8, emb 512, mlp 1024, 9 + 3 layers, 8 heads of 64, float32, random weights.
The gate's bias is set to the median gate logit of the inputs, so that half of the positions stay. Three contestants
take turns in one process on the same cores:

    torch   transformers' T5ForConditionalGeneration.generate, greedy, cached
    none    this library, nothing deleted
    hard    this library, half of the positions deleted

Neither side ends a sequence early: torch is told not to, and here the end of sequence always loses a tie.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.forward import Params, run_prefix
from mrt5_jax.inference.engine import Engine
from mrt5_jax.network import MrT5

CONFIG = ModelConfig(
    emb_dim=512,
    num_heads=8,
    head_dim=64,
    mlp_dim=1024,
    num_encoder_layers=9,
    num_decoder_layers=3,
    gate=GateConfig(layer=3),
)
BATCH, LENGTH, TOKENS = 8, 1024, 64


class Timings(NamedTuple):
    """Seconds of each round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{self.median:7.3f} s  ({min(self.seconds):.3f} to {max(self.seconds):.3f})"


def half_deleting_params(inputs: np.ndarray) -> Params:
    """Random parameters that never end a sequence, and whose gate keeps half of `inputs`."""
    ids = jnp.ones((1, 4), jnp.int32)
    params = jax.tree.map(
        lambda leaf: leaf.unbox() if hasattr(leaf, "unbox") else leaf,
        jax.jit(MrT5(CONFIG).init)(jax.random.key(0), ids, ids)["params"],
        is_leaf=lambda leaf: hasattr(leaf, "unbox"),
    )
    gate = params["encoder"]["gate"]
    gate["bias"] = jnp.zeros(1)
    selection = jax.jit(run_prefix, static_argnums=0)(MrT5(CONFIG), params, jnp.asarray(inputs)).selection
    assert CONFIG.gate is not None
    assert selection is not None
    logits = -jax.scipy.special.logit(selection.bias / CONFIG.gate.scale)
    gate["bias"] = -jnp.median(logits)[None]
    # The end of sequence gets the logits of token 0, and argmax takes the lower id of the two.
    head = params["decoder"]["logits_dense"]["kernel"]
    params["decoder"]["logits_dense"]["kernel"] = head.at[:, 1].set(head[:, 0])
    return params


def torch_contestant(inputs: np.ndarray) -> Callable[[], None]:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration
    from transformers.utils import logging

    logging.set_verbosity_error()
    config = T5Config(
        vocab_size=CONFIG.vocab_size,
        d_model=CONFIG.emb_dim,
        d_kv=CONFIG.head_dim,
        d_ff=CONFIG.mlp_dim,
        num_layers=CONFIG.num_encoder_layers,
        num_decoder_layers=CONFIG.num_decoder_layers,
        num_heads=CONFIG.num_heads,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config).eval()
    tokens = torch.tensor(inputs, dtype=torch.long)

    def run() -> None:
        with torch.inference_mode():
            out = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                num_beams=1,
                min_new_tokens=TOKENS,
                max_new_tokens=TOKENS,
            )
        assert out.shape == (BATCH, TOKENS + 1), out.shape

    return run


def jax_contestant(engine: Engine, inputs: np.ndarray) -> Callable[[], None]:
    def run() -> None:
        generated = engine.generate(inputs, TOKENS)
        assert np.asarray(generated.num_tokens).tolist() == [TOKENS] * BATCH, generated.num_tokens

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant (default: 5)")
    rounds = parser.parse_args().rounds
    inputs = np.random.default_rng(0).integers(3, 259, (BATCH, LENGTH), dtype=np.int32)
    params = half_deleting_params(inputs)
    hard, none = Engine(CONFIG, params, "hard"), Engine(CONFIG, params, "none")
    contestants = {
        "torch": torch_contestant(inputs),
        "none": jax_contestant(none, inputs),
        "hard": jax_contestant(hard, inputs),
    }
    targets = np.ones((BATCH, 1), np.int32)
    names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights")
    kept = np.asarray(hard.score({"encoder_input_tokens": inputs, **dict.fromkeys(names, targets)}).num_kept_tokens)
    for run in contestants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    timings = {name: Timings(values) for name, values in seconds.items()}
    print(f"greedy, {TOKENS} tokens from {BATCH} x {LENGTH} bytes; kept {kept.mean() / LENGTH:.1%}; {rounds} rounds")
    print(f"devices: {jax.devices()}, torch beside them on the CPU")
    for name, timing in timings.items():
        print(f"  {name:6} {timing}  {timings['torch'].median / timing.median:5.2f} x torch")
    print(f"  hard is {timings['none'].median / timings['hard'].median:.2f} times as fast as none")


if __name__ == "__main__":
    main()
