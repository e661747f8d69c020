"""What is exported, as transformers' Auto classes read it."""

import json

import pytest
from safetensors.numpy import load_file

from mrt5_jax.errors import UserError
from mrt5_jax.interop.hf import write_hf

transformers = pytest.importorskip("transformers", reason="needs transformers: the parity extra on Python 3.11")
TEXT, IDS = "hi é", [107, 108, 35, 198, 172, 1]


@pytest.mark.parametrize("vocab_size", [384, 259, 512])
def test_the_tokenizer_is_byt5s(tmp_path, byt5, random_params, vocab_size) -> None:
    import dataclasses

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
    import dataclasses

    config = dataclasses.replace(byt5, vocab_size=12)
    with pytest.raises(UserError, match="12 rows"):
        write_hf(random_params(config), config, tmp_path)
    assert not list(tmp_path.iterdir())
