"""An exported MrT5 in transformers: its gate, its numbers, generation, and that its weights come back."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mrt5_jax.config import GateConfig
from mrt5_jax.inference.beam import Beam
from mrt5_jax.inference.engine import Engine
from mrt5_jax.interop.hf import differences, read_hf, write_hf

torch = pytest.importorskip("torch", reason="needs PyTorch: the parity extra on Python 3.11")
transformers = pytest.importorskip("transformers", reason="needs transformers: the parity extra")

from . import exported_mrt5  # noqa: E402

CASES = ("mrt5_tiny", "mrt5_tiny_plain_softmax")


@pytest.fixture(scope="module", autouse=True)
def _dynamic_modules(tmp_path_factory):
    """What transformers copies to run it is not kept in the user's cache."""
    folder = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        for module in (transformers.dynamic_module_utils, transformers.utils.hub):
            patch.setattr(module, "HF_MODULES_CACHE", folder, raising=False)
        yield


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory) -> tuple[Path, Path]:
    """A golden folder, and its export after an import."""
    source = request.getfixturevalue("shared") / "golden" / request.param
    imported = read_hf(source)
    folder = tmp_path_factory.mktemp("exported")
    write_hf(imported.params, imported.config, folder)
    return source, folder


def test_logits_gradients_and_generated_ids_are_the_authors_and_ours(case) -> None:
    source, folder = case
    record, gradients = dict(np.load(source / "io.npz")), load_file(source / "soft_grads.safetensors")
    imported = read_hf(folder)
    tokens = np.where(record["attention_mask"] > 0, record["input_ids"], 0).astype(np.int32)
    most = record["greedy_hard"].shape[1] - 1
    beam = Engine(imported.config, imported.params, "hard").generate(tokens, most, Beam(4))
    record["beam_hard"] = np.pad(np.asarray(beam.tokens), ((0, 0), (1, 0)))
    found = exported_mrt5.errors(folder, record, gradients)
    assert found.keys() - {"texts of the pipeline that differ"} == {
        "soft logits", "hard logits", "soft gradients", "greedy rows that differ", "beam rows that differ",
    }  # fmt: skip
    assert ("texts of the pipeline that differ" in found) == transformers.__version__.startswith("4.")
    assert {quantity: worst for quantity, worst in found.items() if not worst <= 1e-4} == {}


def test_fields_and_tensors_are_the_authors_layout_name_by_name_and_shape_by_shape(case) -> None:
    source, folder = case
    theirs, ours = (load_file(place / "model.safetensors") for place in (source, folder))
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in theirs.items()}
    before, after = (json.loads((place / "config.json").read_text()) for place in (source, folder))
    for name in after.keys() - {"auto_map", "tokenizer_class"}:
        assert after[name] == before[name], name
    gate = {"delete_gate_layer", "sigmoid_mask_scale", "deletion_threshold", "gate_layer_norm", "deletion_type"}
    assert gate | {"use_softmax1", "use_gumbel_noise", "num_layers", "num_decoder_layers"} <= after.keys()


def test_an_import_of_an_export_gives_the_same_bits(case, tmp_path) -> None:
    source, folder = case
    imported = read_hf(folder)
    write_hf(imported.params, imported.config, tmp_path, imported.source)
    assert differences(folder, tmp_path) == []
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
    narrowed = {name: tensor.astype(np.float32) for name, tensor in load_file(source / "model.safetensors").items()}
    assert all(
        np.array_equal(tensor, narrowed[name]) for name, tensor in load_file(folder / "model.safetensors").items()
    )


def test_what_transformers_saves_again_comes_back_with_the_same_bits(case, tmp_path) -> None:
    _, folder = case
    exported_mrt5.load(folder).save_pretrained(tmp_path)
    exported_mrt5.load(tmp_path)  # by the code, which was saved with it
    before, after = read_hf(folder), read_hf(tmp_path)
    assert after.config == before.config
    assert differences_of(before.params, after.params) == []


def differences_of(left: dict, right: dict, prefix: str = "") -> list[str]:
    assert left.keys() == right.keys()
    found = []
    for name, value in left.items():
        if isinstance(value, dict):
            found += differences_of(value, right[name], f"{prefix}{name}/")
        elif not np.array_equal(value, right[name]):
            found.append(prefix + name)
    return found


@pytest.fixture(scope="module")
def model(case):
    return exported_mrt5.load(case[1])


def batch_of(case) -> dict:
    record = np.load(case[0] / "io.npz")
    return {name: torch.tensor(record[name]) for name in ("input_ids", "attention_mask", "labels")}


def test_padding_changes_no_row(case, model) -> None:
    batch = batch_of(case)
    longer = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 9)),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 9)),
        "labels": batch["labels"],
    }
    with torch.no_grad():
        for deletion in ("soft", "hard", "none"):
            whole, padded = (model(**some, deletion=deletion).logits for some in (batch, longer))
            assert torch.allclose(whole, padded, atol=1e-4)
            for row in range(2):
                count = int(batch["attention_mask"][row].sum())
                alone = {name: tensor[row : row + 1] for name, tensor in batch.items()}
                alone = {**alone, "input_ids": alone["input_ids"][:, :count], "attention_mask": None}
                assert torch.allclose(model(**alone, deletion=deletion).logits[0], whole[row], atol=1e-4)


def test_training_deletes_softly_and_everything_else_hard(case, model) -> None:
    batch = batch_of(case)
    with torch.no_grad():
        by_default = model(**batch)
        assert torch.equal(by_default.logits, model(**batch, deletion="hard").logits)
        assert by_default.encoder_last_hidden_state.shape[1] < batch["input_ids"].shape[1]
        model.train()
        try:
            assert model(**batch).encoder_last_hidden_state.shape[1] == batch["input_ids"].shape[1]
        finally:
            model.eval()
        with pytest.raises(ValueError, match="deletion='harsh'"):
            model(**batch, deletion="harsh")


def test_a_new_gate_begins_with_the_authors_values(model) -> None:
    """The bias 1, and Xavier's uniform weights; whatever transformers gives other linear maps."""
    config = model.config
    gate = type(model)(config).encoder.block[config.delete_gate_layer].delete_gate
    assert torch.equal(gate.feed_forward.bias, torch.ones(1))
    limit = (6 / (config.d_model + 1)) ** 0.5
    assert limit / 4 < gate.feed_forward.weight.std() < gate.feed_forward.weight.abs().max() <= limit
    assert torch.equal(gate.layer_norm.weight, torch.ones(config.d_model))


def test_what_is_not_supported_is_refused(case, model) -> None:
    batch = batch_of(case)
    with pytest.raises(ValueError, match="head_mask: MrT5 masks no heads"):
        model(**batch, head_mask=torch.ones(1))
    static = transformers.StaticCache(config=model.decoder.config, max_cache_len=batch["labels"].shape[1])
    with pytest.raises(ValueError, match="MrT5 decodes with caches that grow"):
        model(**batch, past_key_values=transformers.EncoderDecoderCache(static, transformers.DynamicCache()))


def test_sampling_and_decoding_without_a_cache(case, model) -> None:
    batch = {name: tensor for name, tensor in batch_of(case).items() if name != "labels"}
    torch.manual_seed(0)
    sampled = model.generate(**batch, do_sample=True, num_return_sequences=2, max_new_tokens=5)
    assert sampled.shape[0] == 2 * len(batch["input_ids"])
    with_cache, without = (
        model.generate(**batch, do_sample=False, max_new_tokens=8, use_cache=use_cache) for use_cache in (True, False)
    )
    assert torch.equal(with_cache, without)
    soft = model.generate(**batch, do_sample=False, max_new_tokens=8, deletion="soft")
    assert soft.shape[0] == len(batch["input_ids"])


def test_the_auto_classes_load_configuration_and_tokenizer(case) -> None:
    _, folder = case
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (type(config).__name__, config.model_type) == ("MrT5Config", "mrt5")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert tokenizer("a").input_ids == [100, 1]


@pytest.mark.parametrize("kind", ["fixed", "random"])
def test_gates_that_are_rules_delete_their_share(tmp_path, mrt5, random_params, kind) -> None:
    config = dataclasses.replace(
        mrt5, gate=GateConfig(layer=1, kind=kind, threshold=-15.0, deletion_probability=0.5), softmax1=False
    )
    params = random_params(config)
    write_hf(params, config, tmp_path)
    tokens = np.array([[*range(100, 104), 35, *range(104, 110), 1], [*range(100, 105), 1, 0, 0, 0, 0, 0, 0]])
    model = exported_mrt5.load(tmp_path)
    targets = torch.zeros((2, 1), dtype=torch.long)
    with torch.no_grad():
        output = model(input_ids=torch.tensor(tokens), decoder_input_ids=targets)
    if kind == "random":
        assert 0 < output.kept_mask.sum() < (tokens > 0).sum()
        return
    batch = {
        "encoder_input_tokens": tokens.astype(np.int32),
        "decoder_input_tokens": np.zeros((2, 1), np.int32),
        "decoder_target_tokens": np.full((2, 1), 101, np.int32),
        "decoder_loss_weights": np.ones((2, 1), np.int32),
    }
    scores = Engine(config, params, "hard").score(batch)
    assert output.kept_mask.sum(1).tolist() == np.asarray(scores.num_kept_tokens).tolist()
    theirs = torch.log_softmax(output.logits, -1)[:, 0, 101].numpy()
    np.testing.assert_allclose(theirs, np.asarray(scores.score), rtol=1e-4)
