"""A random ByT5 made by transformers at test time, so that parity does not depend on recorded numbers being there."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import mrt5_jax.kernels.xla
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import GateConfig
from mrt5_jax.interop.gate_adding import add_gate
from mrt5_jax.interop.hf import read_hf, write_hf
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import ForwardSetting, forward
from mrt5_jax.tools import parity

torch = pytest.importorskip("torch", reason="needs PyTorch: the parity extra on Python 3.11")
transformers = pytest.importorskip("transformers")

GENERATED = 12


@pytest.fixture(scope="module")
def byt5():
    """Random, in float64, with a head of its own and weights large enough that attention is not uniform."""
    sizes = {"d_model": 32, "d_kv": 32, "d_ff": 48, "num_heads": 2, "num_layers": 3, "num_decoder_layers": 2}
    config = transformers.T5Config(
        vocab_size=384, feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, **sizes
    )
    torch.manual_seed(0)
    torch.set_num_threads(1)  # beside XLA's threads more of them only wait
    model = transformers.T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(384, 32) / 4)  # transformers 5 makes every T5 tied
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameter.float() * (0.2 if name == "shared.weight" else 1))
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def batch():
    generator = np.random.default_rng(0)
    input_ids, labels = generator.integers(3, 259, (3, 20)), generator.integers(3, 259, (3, 9))
    mask = np.arange(20) < np.array([[20], [13], [6]])
    labels[1, 6:] = -100
    return {
        "input_ids": torch.from_numpy(np.where(mask, input_ids, 0)),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        "labels": torch.from_numpy(labels),
    }


@pytest.fixture(scope="module")
def case(byt5, batch, tmp_path_factory) -> Path:
    """A recorded case of that model: what `parity.measure` compares with."""
    folder = tmp_path_factory.mktemp("byt5")
    byt5.save_pretrained(folder)
    wide = transformers.T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float64).eval()
    outputs = wide(**batch)
    outputs.loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in wide.named_parameters()}
    save_file(gradients, folder / "grads.safetensors")
    generated = [
        wide.generate(row[mask > 0][None], max_new_tokens=GENERATED, do_sample=False)[0]
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    greedy = [np.pad(row.numpy(), (0, GENERATED + 1 - len(row))) for row in generated]
    arrays = {
        "loss": outputs.loss,
        "logits": outputs.logits,
        "encoder_last_hidden_state": outputs.encoder_last_hidden_state,
        **batch,
    }
    arrays = {name: tensor.detach().numpy() for name, tensor in arrays.items()}
    np.savez(folder / "io.npz", greedy=np.stack(greedy), **arrays)
    return folder


@pytest.fixture(scope="module")
def imported(case):
    return read_hf(case)


def torch_logits(folder: Path, batch) -> np.ndarray:
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**batch).logits.numpy()


def our_batch(batch) -> dict[str, jax.Array]:
    targets = np.maximum(batch["labels"].numpy(), 0)
    inputs = {
        "encoder_input_tokens": batch["input_ids"].numpy(),
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    }
    return {name: jax.numpy.asarray(array, "int32") for name, array in inputs.items()}


@pytest.mark.parametrize("rows", ["batched", "one_by_one"])
def test_import_logits_gradients_and_greedy_ids(case, rows, monkeypatch) -> None:
    """In the two ways that attention runs in on a lone CPU: short rows batched, long ones one by one."""
    monkeypatch.setattr(mrt5_jax.kernels.xla, "_MANY_SCORES", 2**60 if rows == "batched" else 1)
    jax.clear_caches()
    errors = {error.quantity: error for error in parity.measure(case, "float32")}
    assert errors.keys() == {"loss", "logits", "encoder hidden states", "gradients", "greedy ids"}
    assert [error for error in errors.values() if not error.worst <= error.tolerance] == []


@pytest.mark.parametrize("config", ["source's", "fresh"])
def test_transformers_loads_an_export_and_gives_the_same_logits(case, imported, batch, tmp_path, config) -> None:
    source = imported.source if config == "source's" else None
    write_hf(imported.params, imported.config, tmp_path, source)
    if source is None:
        assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    model, report = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.lm_head.weight is not model.shared.weight
    assert np.array_equal(torch_logits(tmp_path, batch), torch_logits(case, batch))


@pytest.mark.parametrize("deletion", ["soft", "hard"])
def test_a_gate_held_open_leaves_byt5_as_it_is(case, imported, batch, deletion) -> None:
    assert distance_from_byt5(1000.0, deletion, case, imported, batch) < 1e-4


def test_a_gate_that_deletes_does_not(case, imported, batch) -> None:
    """What the test above would miss: a gate that is never applied."""
    assert distance_from_byt5(-1000.0, "hard", case, imported, batch) > 1e-2


def distance_from_byt5(bias: float, deletion, case, imported, batch) -> float:
    """The largest difference of logits, over the largest logit, after a gate with this bias has been added."""
    gated = add_gate(imported.params, imported.config, GateConfig(layer=2), seed=0)
    gated.params["encoder"]["gate"]["bias"] = np.full(1, bias, np.float32)
    logits = logits_of(
        ForwardSetting(MrT5(gated.config), deletion, Ladder((20,))), gated.params, our_batch(batch)
    ).logits
    expected = torch_logits(case, batch)
    return float(np.max(np.abs(np.asarray(logits) - expected)) / np.max(np.abs(expected)))


logits_of = jax.jit(forward, static_argnums=0)


def test_an_added_gate_is_only_an_unexpected_key_to_transformers(imported, tmp_path) -> None:
    gated = add_gate(imported.params, imported.config, GateConfig(layer=1), seed=0)
    write_hf(gated.params, dataclasses.replace(gated.config, softmax1=True), tmp_path, imported.source)
    _, report = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert all(".delete_gate." in key for key in report["unexpected_keys"])
