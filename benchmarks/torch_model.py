"""transformers' T5 with the dimensions of the benchmark model, in PyTorch on the same cores.

Attention is eager, and PyTorch's own (sdpa) where this version of transformers has it for T5. Eager runs with the
allocator that this project gives its own programs (`mrt5_jax.host_memory`), and as it comes; the difference is glibc's,
not PyTorch's. One more contestant computes in bfloat16 where autocast puts it.
"""

import ctypes
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.contest import CONSOLE, Contestant
from mrt5_jax.config import ModelConfig
from mrt5_jax.host_memory import reuse_host_memory

_GLIBC_DEFAULTS = {-4: 65536, -3: 2**25, -1: 2**26, -2: 2**17}
"""Numbers and values for mallopt(3): mappings for arrays from 32 MB on and a heap trimmed at 64 MB, where glibc's
moving thresholds come to rest in a program that frees large arrays."""


class TorchSetting(NamedTuple):
    attention: Literal["eager", "sdpa"] = "eager"
    """transformers' attn_implementation."""
    bfloat16: bool = False


def torch_contestants(
    make_run: Callable[[TorchSetting], Callable[[], None]], multiply_adds: float
) -> dict[str, Contestant]:
    """What the benchmarks compare with; `make_run` makes a model and returns what runs it once."""
    eager = make_run(TorchSetting())
    runs = {"PyTorch, eager": eager, "PyTorch, eager, as it comes": _as_it_comes(eager)}
    try:
        runs["PyTorch, sdpa"] = make_run(TorchSetting("sdpa"))
    except ValueError as error:
        CONSOLE.print(f"no sdpa: {str(error).splitlines()[0]}")
    runs["PyTorch, eager, bfloat16"] = make_run(TorchSetting(bfloat16=True))
    return {name: Contestant(run, multiply_adds) for name, run in runs.items()}


def _as_it_comes(run: Callable[[], None]) -> Callable[[], None]:
    """`run` under glibc's default allocator; what runs after it has this project's again."""

    def with_defaults() -> None:
        libc = ctypes.CDLL(None)
        for option, value in _GLIBC_DEFAULTS.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)
        try:
            run()
        finally:
            reuse_host_memory()

    return with_defaults


def make_torch_t5(config: ModelConfig, setting: TorchSetting) -> Any:
    """Random weights.

    Raises:
        ValueError: this version of transformers does not have the attention for T5.
    """
    import torch
    from transformers import T5Config, T5ForConditionalGeneration
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    torch_config = T5Config(
        vocab_size=config.vocab_size,
        d_model=config.emb_dim,
        d_kv=config.head_dim,
        d_ff=config.mlp_dim,
        num_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        num_heads=config.num_heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        attn_implementation=setting.attention,
    )
    model = T5ForConditionalGeneration(torch_config)
    assert model.config._attn_implementation == setting.attention
    return model


def torch_forward(config: ModelConfig, batch: dict[str, Any], setting: TorchSetting) -> Callable[[], None]:
    """A teacher-forced forward pass."""
    import torch

    model, tensors = make_torch_t5(config, setting).eval(), _tensors(batch)

    def run() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=setting.bfloat16):
            model(
                input_ids=tensors["encoder_input_tokens"],
                attention_mask=torch.ones_like(tensors["encoder_input_tokens"]),
                decoder_input_ids=tensors["decoder_input_tokens"],
            )

    return run


def torch_training_step(config: ModelConfig, batch: dict[str, Any], setting: TorchSetting) -> Callable[[], None]:
    """A forward pass, its gradient, and AdamW."""
    import torch

    model, tensors = make_torch_t5(config, setting).train(), _tensors(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.bfloat16):
            loss = model(
                input_ids=tensors["encoder_input_tokens"],
                attention_mask=torch.ones_like(tensors["encoder_input_tokens"]),
                labels=tensors["decoder_target_tokens"],
            ).loss
        loss.backward()
        optimizer.step()

    return run


def _tensors(batch: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.tensor(np.asarray(array), dtype=torch.long) for name, array in batch.items()}
