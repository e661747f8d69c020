"""Hugging Face folders, read and written: every tensor accounted for, every bit kept."""

import dataclasses
import json
import pickle
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mrt5_jax.errors import UserError
from mrt5_jax.interop import names
from mrt5_jax.interop.hf import differences, read_hf, write_hf
from mrt5_jax.interop.hf_config import AUTO_MAP
from mrt5_jax.interop.models import ImportedFolder

EMBEDDING = "shared.weight"
QUERY = "encoder.block.0.layer.0.SelfAttention.q.weight"


@pytest.fixture
def folder(tmp_path: Path, mrt5, random_params) -> Path:
    """A float32 MrT5 in one safetensors file."""
    source = tmp_path / "source"
    source.mkdir()
    write_hf(random_params(mrt5), mrt5, source)
    return source


def rewrite(folder: Path, change) -> None:
    """Rewrites the weights by a function of their dict."""
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})


def shard(folder: Path) -> None:
    """Cuts the weights into two files with an index, as transformers does."""
    tensors = load_file(folder / "model.safetensors")
    half = len(tensors) // 2
    parts = {
        "model-00001-of-00002.safetensors": list(tensors)[:half],
        "model-00002-of-00002.safetensors": list(tensors)[half:],
    }
    for file, members in parts.items():
        save_file({name: tensors[name] for name in members}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, members in parts.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def exported(folder: Path, tmp_path: Path) -> Path:
    """The folder after import and export."""
    imported = read_hf(folder)
    target = tmp_path / "exported"
    target.mkdir()
    write_hf(imported.params, imported.config, target, imported.source)
    return target


def equal(left, right) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


def test_linear_maps_are_transposed_and_find_their_place(folder) -> None:
    stored = load_file(folder / "model.safetensors")
    params = read_hf(folder).params
    kernel = stored["encoder.block.2.layer.0.SelfAttention.q.weight"].T
    assert np.array_equal(params["encoder"]["suffix"]["attention"]["query"]["kernel"][1], kernel)
    assert np.array_equal(params["token_embedder"]["embedding"], stored[EMBEDDING])
    bias = stored["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"].T
    assert np.array_equal(params["decoder"]["relpos_bias"]["rel_embedding"], bias)


def test_params_survive_a_fresh_export(folder, mrt5, random_params) -> None:
    imported = read_hf(folder)
    assert equal(imported.params, random_params(mrt5))
    assert imported.config == mrt5
    assert imported.notes == []


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "mixed"])
def test_an_export_gives_the_imported_bits_back(folder, tmp_path, dtype) -> None:
    def narrow(tensors):
        kind = (
            np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype("float16" if dtype == "mixed" else dtype)
        )
        return {name: t if dtype == "mixed" and ".wo." in name else t.astype(kind) for name, t in tensors.items()}

    rewrite(folder, narrow)
    target = exported(folder, tmp_path)
    assert differences(folder, target) == []
    assert json.loads((target / "config.json").read_text()) == json.loads((folder / "config.json").read_text())


def test_narrow_types_are_widened_with_a_word_about_it(folder) -> None:
    rewrite(folder, lambda tensors: {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()})
    imported = read_hf(folder)
    assert {leaf.dtype for leaf in jax.tree.leaves(imported.params)} == {np.dtype("float32")}
    (note,) = imported.notes
    assert note == f"{len(names.tensors(imported.config))} tensors widened from bfloat16 to float32"


def test_values_that_training_moved_are_not_rounded_to_the_sources_type(folder, tmp_path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "torch_dtype": "bfloat16"}))
    rewrite(folder, lambda tensors: {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()})
    imported = read_hf(folder)
    trained = jax.tree.map(lambda array: array * np.float32(1.001), imported.params)
    (note,) = write_hf(trained, imported.config, tmp_path, imported.source)
    assert "written as float32" in note
    assert equal(read_hf(tmp_path).params, trained)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "float32"


def test_a_config_silent_about_softmax1_is_taken_as_off_with_a_word_about_it(folder) -> None:
    fields = json.loads((folder / "config.json").read_text())
    del fields["use_softmax1"]
    (folder / "config.json").write_text(json.dumps(fields))
    imported = read_hf(folder)
    assert not imported.config.softmax1
    assert any("does not say use_softmax1" in note for note in imported.notes)


def test_shards_are_put_together(folder, tmp_path, mrt5, random_params) -> None:
    shard(folder)
    assert equal(read_hf(folder).params, random_params(mrt5))
    assert differences(folder, exported(folder, tmp_path)) == []


def test_second_names_of_the_embedding_are_accepted_and_given_back(folder, tmp_path) -> None:
    rewrite(folder, lambda tensors: {**tensors, "encoder.embed_tokens.weight": tensors[EMBEDDING].copy()})
    assert differences(folder, exported(folder, tmp_path)) == []


def test_a_second_embedding_that_differs_is_refused(folder) -> None:
    rewrite(folder, lambda tensors: {**tensors, "decoder.embed_tokens.weight": tensors[EMBEDDING] + 1})
    with pytest.raises(UserError, match=r"decoder.embed_tokens.weight differs from shared.weight"):
        read_hf(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tensors: {name: t for name, t in tensors.items() if name != QUERY}, f"missing: {QUERY}"),
        (lambda tensors: {**tensors, "extra.weight": np.zeros(2, np.float32)}, "left over: extra.weight"),
        (
            lambda tensors: {**tensors, QUERY: tensors[QUERY].T.copy()},
            rf"wrong shape: {QUERY} is \[8, 6\] and should be \[6, 8\]",
        ),
        (lambda tensors: {**tensors, EMBEDDING: tensors[EMBEDDING][:300]}, rf"{EMBEDDING} is \[300, 8\]"),
        (lambda tensors: {**tensors, QUERY: tensors[QUERY].astype(np.float64)}, f"{QUERY} is float64"),
        (lambda tensors: {**tensors, QUERY: tensors[QUERY].astype(np.int8)}, f"{QUERY} is int8"),
    ],
    ids=["missing", "left over", "transposed", "vocabulary", "float64", "int8"],
)
def test_a_tensor_that_does_not_fit_is_named(folder, change, named) -> None:
    rewrite(folder, change)
    with pytest.raises(UserError, match=named):
        read_hf(folder)


def test_a_tied_head_is_missing(folder) -> None:
    rewrite(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"})
    with pytest.raises(UserError, match=r"missing: lm_head\.weight"):
        read_hf(folder)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def lose_a_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def empty_a_shard(folder: Path) -> None:
    shard(folder)
    save_file({}, folder / "model-00001-of-00002.safetensors")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config.json is not there"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config.json is not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"config.json is not a JSON object"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"holds no weights"),
        (lambda folder: truncate(folder / "model.safetensors"), r"model.safetensors is damaged"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), r"model.safetensors is damaged"),
        (lose_a_shard, r"names the file model-00002-of-00002.safetensors"),
        (empty_a_shard, r"model-00001-of-00002.safetensors lacks \S+, which model.safetensors.index.json says"),
    ],
    ids=["no config", "no JSON", "no object", "no weights", "truncated", "empty", "lost shard", "emptied shard"],
)
def test_a_damaged_folder_is_refused_by_file(folder, damage, named) -> None:
    damage(folder)
    with pytest.raises(UserError, match=named) as caught:
        read_hf(folder)
    assert "\n" not in str(caught.value)


def test_no_folder_at_all(tmp_path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read_hf(tmp_path / "absent")


def test_the_record_of_an_import_survives_its_file(tmp_path, folder) -> None:
    source = read_hf(folder).source
    (tmp_path / "record.json").write_text(source.to_json())
    assert ImportedFolder.from_json(tmp_path / "record.json") == source
    (tmp_path / "record.json").write_text('{"config": {}}')
    with pytest.raises(UserError, match="not a record of an import"):
        ImportedFolder.from_json(tmp_path / "record.json")


@pytest.mark.parametrize("name", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
def test_the_embedding_may_have_its_second_name_alone(folder, tmp_path, mrt5, random_params, name) -> None:
    rewrite(folder, lambda tensors: {name if key == EMBEDDING else key: t for key, t in tensors.items()})
    assert equal(read_hf(folder).params, random_params(mrt5))
    assert differences(folder, exported(folder, tmp_path)) == []


def test_two_second_names_that_differ_are_refused(folder) -> None:
    def rename(tensors):
        embedding = tensors.pop(EMBEDDING)
        return {**tensors, "encoder.embed_tokens.weight": embedding, "decoder.embed_tokens.weight": embedding + 1}

    rewrite(folder, rename)
    with pytest.raises(UserError, match=r"decoder.embed_tokens.weight differs from encoder.embed_tokens.weight"):
        read_hf(folder)


@pytest.mark.parametrize("kept", ["embedding", "head", "both equal", "both"])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_tied_head_is_the_embedding_and_survives_an_export(folder, tmp_path, kept, scaled) -> None:
    fields = json.loads((folder / "config.json").read_text())
    tied = {**fields, "tie_word_embeddings": True, "scale_decoder_outputs": scaled}
    (folder / "config.json").write_text(json.dumps(tied))
    stored = load_file(folder / "model.safetensors")
    lost = {"embedding": "lm_head.weight", "head": EMBEDDING}.get(kept)
    rewrite(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != lost})
    if kept == "both equal":
        rewrite(folder, lambda tensors: {**tensors, "lm_head.weight": tensors[EMBEDDING].copy()})
    head = stored["lm_head.weight" if kept in ("head", "both") else EMBEDDING]
    imported = read_hf(folder)
    expected = head.T * (np.float32(8**-0.5) if scaled else np.float32(1))
    assert np.array_equal(imported.params["decoder"]["logits_dense"]["kernel"], expected)
    target = exported(folder, tmp_path)
    if kept != "both" or not scaled:  # a scaled head of its own is written as it is multiplied
        assert differences(folder, target) == []
    assert equal(read_hf(target).params, imported.params)


def test_a_tied_head_that_training_moved_is_exported_as_its_own(folder, tmp_path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "tie_word_embeddings": True}))
    rewrite(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"})
    imported = read_hf(folder)
    imported.params["decoder"]["logits_dense"]["kernel"] *= np.float32(1.5)
    write_hf(imported.params, imported.config, tmp_path, imported.source)
    assert equal(read_hf(tmp_path).params, imported.params)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_pickles_are_never_opened(folder, tmp_path, name) -> None:
    class Malice:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    (folder / name).write_bytes(pickle.dumps({EMBEDDING: Malice()}))
    read_hf(folder)  # beside safetensors it is passed over
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=rf"{name} is a pickle, which can hold code and is never opened: save the model"
    ):
        read_hf(folder)
    assert not (tmp_path / "touched").exists()


def test_code_that_a_config_names_is_not_run(folder, tmp_path) -> None:
    """Somebody's own code, beside the weights; an export has ours in its place."""
    fields = json.loads((folder / "config.json").read_text())
    theirs = {"AutoModelForSeq2SeqLM": "theirs.Model"}
    (folder / "config.json").write_text(json.dumps({**fields, "auto_map": theirs}))
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')\n")
    (note,) = read_hf(folder).notes
    assert "names code (auto_map): it is not run" in note
    assert not (tmp_path / "touched").exists()
    target = exported(folder, tmp_path)
    assert json.loads((target / "config.json").read_text())["auto_map"] == fields["auto_map"] != theirs
    assert not (target / "theirs.py").exists()


def test_an_export_of_the_authors_mrt5_names_code_and_tokenizer(shared: Path, tmp_path: Path) -> None:
    """Nothing else of their folder changes."""
    source = shared / "golden" / "mrt5_tiny"
    target = exported(source, tmp_path)
    assert differences(source, target) == []
    written, read = (json.loads((folder / "config.json").read_text()) for folder in (target, source))
    assert written == read | {"auto_map": AUTO_MAP, "tokenizer_class": "ByT5Tokenizer"}


def test_a_model_with_convolutional_pooling_is_read_and_written_bit_for_bit(shared: Path, tmp_path: Path) -> None:
    """The authors' CanineT5, config.json too."""
    source = shared / "golden" / "caninet5_tiny"
    target = exported(source, tmp_path)
    assert differences(source, target) == []
    written, read = (json.loads((folder / "config.json").read_text()) for folder in (target, source))
    assert written == read


def test_pooling_that_the_authors_code_has_not_is_not_exported(tmp_path: Path, shared: Path) -> None:
    """A mean, or a tail that is kept: their architecture would compute something else."""
    imported = read_hf(shared / "golden" / "caninet5_tiny")
    assert imported.config.gate is not None
    for change in ({"drop_tail": False}, {"reduction": "segment_mean"}):
        config = dataclasses.replace(imported.config, gate=dataclasses.replace(imported.config.gate, **change))
        params = {**imported.params, "encoder": dict(imported.params["encoder"])}
        if config.gate.reduction == "segment_mean":
            del params["encoder"]["pooling"]
        with pytest.raises(UserError, match="kind = 'every_kth' has no name"):
            write_hf(params, config, tmp_path)
