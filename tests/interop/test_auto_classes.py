"""What is exported, as transformers' Auto classes read it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.errors import UserError
from mrt5_jax.interop.hf import read_hf, write_hf
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import ForwardSetting, forward

transformers = pytest.importorskip("transformers", reason="needs transformers: the parity extra on Python 3.11")
TEXT, IDS = "hi é", [107, 108, 35, 198, 172, 1]
SHARED, HEAD = "shared.weight", "lm_head.weight"


@pytest.mark.parametrize("vocab_size", [384, 259, 512])
def test_the_tokenizer_is_byt5s(tmp_path, byt5, random_params, vocab_size) -> None:
    config = dataclasses.replace(byt5, vocab_size=vocab_size)
    write_hf(random_params(config), config, tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(TEXT).input_ids == IDS
    assert tokenizer.decode(IDS, skip_special_tokens=True) == TEXT
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.model_max_length > 10**9
    assert len(tokenizer) == vocab_size
    if vocab_size > 259:
        assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == 259
    fields = json.loads((tmp_path / "config.json").read_text())
    assert (fields["vocab_size"], fields["tokenizer_class"]) == (vocab_size, "ByT5Tokenizer")
    assert load_file(tmp_path / "model.safetensors")["shared.weight"].shape[0] == vocab_size
    generation = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert (generation.decoder_start_token_id, generation.eos_token_id, generation.pad_token_id) == (0, 1, 0)


def test_an_mrt5_comes_with_its_tokenizer_too(tmp_path, mrt5, random_params) -> None:
    write_hf(random_params(mrt5), mrt5, tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "ByT5Tokenizer"


def test_a_model_of_fewer_ids_than_bytes_is_refused(tmp_path, byt5, random_params) -> None:
    config = dataclasses.replace(byt5, vocab_size=12)
    with pytest.raises(UserError, match="12 rows"):
        write_hf(random_params(config), config, tmp_path)
    assert not list(tmp_path.iterdir())


LENGTH = 6
INPUTS, SHIFTED = np.array([IDS]), np.array([[0, 100, 101]])


def logits_here(params, config) -> np.ndarray:
    batch = {"encoder_input_tokens": jnp.asarray(INPUTS), "decoder_input_tokens": jnp.asarray(SHIFTED)}
    return np.asarray(jitted(ForwardSetting(MrT5(config), "none", Ladder((LENGTH,))), params, batch).logits)


jitted = jax.jit(forward, static_argnums=0)


def logits_there(folder) -> np.ndarray:
    torch = pytest.importorskip("torch", reason="needs PyTorch: the parity extra on Python 3.11")
    model, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(INPUTS), decoder_input_ids=torch.tensor(SHIFTED)).logits.numpy()


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_an_export_is_the_same_model_to_the_auto_classes(tmp_path, byt5, random_params) -> None:
    params = random_params(byt5)
    write_hf(params, byt5, tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (config.model_type, config.d_model, config.num_layers) == ("t5", byt5.emb_dim, byt5.num_encoder_layers)
    assert_close(logits_here(params, byt5), logits_there(tmp_path))


FRESH = {"tie_word_embeddings": True, "scale_decoder_outputs": False}
SPELLINGS = {
    "only the decoder's name": ({SHARED: "decoder.embed_tokens.weight"}, {}),
    "only the encoder's name": ({SHARED: "encoder.embed_tokens.weight"}, {}),
    "tied": ({HEAD: None}, FRESH),
    "tied under the decoder's name": ({HEAD: None, SHARED: "decoder.embed_tokens.weight"}, FRESH),
    "tied under the head's name": ({HEAD: None, SHARED: HEAD}, FRESH),
    "tied and scaled": ({HEAD: None}, {"tie_word_embeddings": True}),
    "tied and scaled, unsaid": ({HEAD: None}, {"tie_word_embeddings": None}),
    "a head of its own, scaled": ({}, {"tie_word_embeddings": None}),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_has_the_numbers_of_transformers(tmp_path, byt5, random_params, spelling) -> None:
    """A tensor that is renamed, or left out, and what config.json says of the head."""
    names, fields = SPELLINGS[spelling]
    write_hf(random_params(byt5), byt5, tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    renamed = {names.get(name, name): tensor for name, tensor in load_file(weights).items()}
    save_file({name: tensor for name, tensor in renamed.items() if name is not None}, weights, {"format": "pt"})
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))
    imported = read_hf(tmp_path)
    assert_close(logits_here(imported.params, imported.config), logits_there(tmp_path))
    exported = tmp_path / "exported"
    exported.mkdir()
    write_hf(imported.params, imported.config, exported, imported.source)
    assert_close(logits_here(imported.params, imported.config), logits_there(exported))


def test_a_head_that_is_lost_is_not_the_embedding(tmp_path, byt5, random_params) -> None:
    """transformers 5 takes it so without a word; config.json says otherwise."""
    write_hf(random_params(byt5), byt5, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if name != HEAD}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"missing: lm_head.weight.*tie_word_embeddings: false.*scale_decoder_outputs"):
        read_hf(tmp_path)
