"""T5X checkpoints in every layout: the golden ones that T5X wrote, and ones that differ from them."""

import jax
import ml_dtypes
import numpy as np
import pytest

from mrt5_jax.errors import UserError
from mrt5_jax.interop.t5x import read_t5x

from . import t5x_layouts as layouts

QUERY = "target.encoder.layers_0.attention.query.kernel"


@pytest.fixture
def unscanned(byt5, flat_params) -> dict[str, np.ndarray]:
    """A ByT5 as T5X names it, with a bit of optimizer state."""
    arrays = {f"target.{name.replace('/', '.')}": array for name, array in flat_params(byt5).items()}
    return {
        **arrays,
        "state.step": np.array(7),
        "state.param_states.encoder.encoder_norm.scale.v": np.ones(30, np.float32),
    }


@pytest.fixture
def folder(tmp_path):
    checkpoint = tmp_path / "checkpoint_7"
    checkpoint.mkdir()
    return checkpoint


def scanned(arrays: dict[str, np.ndarray], config, axis: int) -> dict[str, np.ndarray]:
    """The same model as scalable T5X stacks it: a bias repeated in each layer, kernels with an axis of heads."""
    result = {}
    for stack, count in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        layers = [name for name in arrays if name.startswith(f"target.{stack}.layers_0.")]
        for name in layers:
            rows = [_with_heads(name, arrays[name.replace("layers_0", f"layers_{i}")], config) for i in range(count)]
            result[name.replace("layers_0", stack)] = np.stack(rows, axis)
        bias = arrays[f"target.{stack}.relpos_bias.rel_embedding"]
        result[f"target.{stack}.{stack}.relpos_bias.rel_embedding"] = np.stack([bias] * count, axis)
    unstacked = {n: a for n, a in arrays.items() if ".layers_" not in n and "relpos_bias" not in n}
    return {**result, **unstacked}


def _with_heads(name: str, array: np.ndarray, config) -> np.ndarray:
    heads = (config.num_heads, config.head_dim)
    if any(f".{part}.kernel" in name for part in ("query", "key", "value")):
        return array.reshape(config.emb_dim, *heads)
    return array.reshape(*heads, config.emb_dim) if ".out.kernel" in name else array


def equal(left, right) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


@pytest.mark.parametrize("write", [layouts.legacy, layouts.placeholders, layouts.ocdbt, layouts.zarr_folders])
@pytest.mark.parametrize("parts", [1, 3], ids=["one chunk", "many chunks"])
def test_every_layout_gives_the_same_model(byt5, random_params, unscanned, folder, write, parts) -> None:
    write(folder, unscanned, parts)
    imported = read_t5x(folder)
    assert imported.config == byt5
    assert equal(imported.params, random_params(byt5))
    assert imported.notes == ["2 arrays of optimizer state and step left behind"]


@pytest.mark.parametrize("driver", ["zarr", "zarr3"])
@pytest.mark.parametrize("write", [layouts.ocdbt, layouts.zarr_folders])
def test_bfloat16_is_widened_with_a_word_about_it(byt5, unscanned, folder, write, driver) -> None:
    narrow = {name: array.astype(ml_dtypes.bfloat16) for name, array in unscanned.items() if name.startswith("target.")}
    write(folder, narrow, driver=driver)
    imported = read_t5x(folder)
    query = imported.params["encoder"]["prefix"]["attention"]["query"]["kernel"][0]
    assert query.dtype == np.float32
    assert np.array_equal(query, narrow[QUERY].astype(np.float32))
    assert f"{len(narrow)} arrays widened from bfloat16 to float32" in imported.notes


@pytest.mark.parametrize("axis", [1, 0])
@pytest.mark.parametrize("write", [layouts.legacy, layouts.ocdbt])
def test_scanned_layers_are_taken_apart(byt5, random_params, unscanned, folder, write, axis) -> None:
    write(folder, scanned(unscanned, byt5, axis))
    imported = read_t5x(folder)
    assert imported.config == byt5
    assert equal(imported.params, random_params(byt5))


def test_a_relative_bias_of_each_layer_is_refused_by_name(byt5, unscanned, folder) -> None:
    arrays = scanned(unscanned, byt5, axis=1)
    arrays["target.decoder.decoder.relpos_bias.rel_embedding"][0, 1, 0] += 1
    layouts.legacy(folder, arrays)
    with pytest.raises(UserError, match=r"target/decoder/decoder/relpos_bias/rel_embedding differs between layers"):
        read_t5x(folder)


def test_a_folder_of_one_checkpoint_will_do(byt5, unscanned, folder) -> None:
    layouts.zarr_folders(folder, unscanned)
    assert read_t5x(folder.parent).config == byt5
    (folder.parent / "checkpoint_12").mkdir()
    with pytest.raises(UserError, match=r"holds 2 checkpoints; give one of checkpoint_12, checkpoint_7"):
        read_t5x(folder.parent)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda arrays: arrays.pop(QUERY), r"target/encoder/layers_0/attention/query/kernel is missing"),
        (
            lambda arrays: arrays.pop("target.decoder.logits_dense.kernel"),
            r"missing: target/decoder/logits_dense/kernel",
        ),
        (
            lambda arrays: arrays.update({"target.encoder.layers_0.mlp.wi.kernel": np.ones((8, 5), np.float32)}),
            r"left over: target/encoder/layers_0/mlp/wi/kernel",
        ),
        (
            lambda arrays: arrays.update({"target.encoder.layers_1.mlp.wo.kernel": np.ones((8, 5), np.float32)}),
            r"wo/kernel is \[8, 5\] and should be \[5, 8\]",
        ),
        (
            lambda arrays: arrays.update({"target.token_embedder.embedding": np.ones((500, 8), np.float32)}),
            r"embedding has 500 rows; byte models have 384",
        ),
        (lambda arrays: arrays.update({QUERY: np.ones((8, 7), np.float32)}), r"query/kernel does not divide into 2"),
        (lambda arrays: arrays.update({QUERY: np.ones((8, 6), np.int32)}), r"query/kernel is int32"),
        (
            lambda arrays: arrays.pop("target.encoder.layers_1.mlp.wo.kernel"),
            r"missing: target/encoder/layers_1/mlp/wo/kernel",
        ),
        (lambda arrays: arrays.pop("target.token_embedder.embedding"), r"target/token_embedder/embedding is missing"),
    ],
    ids=["query", "tied", "relu", "shape", "vocabulary", "heads", "integers", "missing", "no embedding"],
)
def test_a_model_that_is_no_byt5_is_refused_by_parameter(unscanned, folder, change, named) -> None:
    change(unscanned)
    layouts.zarr_folders(folder, unscanned)
    with pytest.raises(UserError, match=named):
        read_t5x(folder)


def remove_a_chunk(folder) -> None:
    layouts.zarr_folders(folder, {"target.encoder.encoder_norm.scale": np.ones(8, np.float32)}, parts=2)
    (folder / "target.encoder.encoder_norm.scale" / "1").unlink()


def cut_a_chunk(folder) -> None:
    layouts.zarr_folders(folder, {"target.encoder.encoder_norm.scale": np.ones(8, np.float32)})
    chunk = folder / "target.encoder.encoder_norm.scale" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-4])


def lose_an_array(folder) -> None:
    layouts.legacy(folder, {"target.decoder.logits_dense.kernel": np.ones((8, 8), np.float32)})
    for file in (folder / "target.decoder.logits_dense.kernel").iterdir():
        file.unlink()


def damage_the_index(folder) -> None:
    layouts.legacy(folder, {"target.decoder.logits_dense.kernel": np.ones((8, 8), np.float32)})
    (folder / "checkpoint").write_bytes((folder / "checkpoint").read_bytes()[:-10])


def damage_the_database(folder) -> None:
    layouts.ocdbt(folder, {"target.encoder.encoder_norm.scale": np.ones(8, np.float32)})
    (folder / "state" / "manifest.ocdbt").write_bytes(b"no database")


def leave_it_unmerged(folder) -> None:
    (folder / "state" / "ocdbt.process_0").mkdir(parents=True)
    (folder / "state" / "ocdbt.process_0" / "manifest.ocdbt").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (remove_a_chunk, r"target.encoder.encoder_norm.scale cannot be read"),
        (cut_a_chunk, r"target.encoder.encoder_norm.scale cannot be read"),
        (lose_an_array, r"points to the array target.decoder.logits_dense.kernel, which is not beside it"),
        (damage_the_index, r"checkpoint is damaged or no msgpack file"),
        (damage_the_database, r"manifest.ocdbt is damaged"),
        (leave_it_unmerged, r"is an unfinished checkpoint"),
        (lambda folder: None, r"is no T5X checkpoint"),
        (lambda folder: folder.rmdir(), r"is not a folder"),
    ],
    ids=["lost chunk", "cut chunk", "lost array", "index", "database", "unmerged", "empty", "absent"],
)
def test_a_damaged_checkpoint_is_refused_by_file_or_array(folder, damage, named) -> None:
    damage(folder)
    with pytest.raises(UserError, match=named) as caught:
        read_t5x(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ["t5x_legacy", "t5x_orbax", "t5x_scanned_tied_legacy"])
def test_t5xs_own_checkpoints_are_one_model(shared, case) -> None:
    reference = read_t5x(shared / "golden" / "t5x_legacy")
    imported = read_t5x(shared / "golden" / case / "checkpoint_1003")
    assert imported.config == reference.config
    assert equal(imported.params, reference.params)


def test_t5xs_scalable_model_is_refused(shared) -> None:
    with pytest.raises(UserError, match=r"relpos_bias/rel_embedding differs between layers, as in umT5"):
        read_t5x(shared / "golden" / "t5x_scanned_legacy")
