"""Checkpoints that are written for T5X: its names and shapes, and every bit back."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_restore

from mrt5_jax.cli.main import main
from mrt5_jax.config import GateConfig
from mrt5_jax.interop.model_dirs import read_model_dir
from mrt5_jax.interop.t5x import read_t5x
from mrt5_jax.interop.t5x_arrays import open_checkpoint
from mrt5_jax.interop.t5x_export import write_t5x
from mrt5_jax.runs import folders
from mrt5_jax.runs.files import LocalFiles, as_path

from . import t5x_layouts as layouts


def equal(left, right) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


def parameters(folder: Path) -> dict[str, np.ndarray]:
    stored = open_checkpoint(folder)
    return {name: stored.read(name) for name in stored.readers if name.startswith("target.")}


@pytest.mark.parametrize("case", ["t5x_legacy", "t5x_orbax"])
def test_names_shapes_and_arrays_are_those_that_t5x_wrote(shared: Path, tmp_path: Path, case: str) -> None:
    source = shared / "golden" / case
    imported = read_t5x(source)
    written = write_t5x(imported.params, imported.config, tmp_path, 1003)
    assert written.name == "checkpoint_1003"
    theirs, ours = parameters(source), parameters(written)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert (ours[name].shape, ours[name].dtype) == (array.shape, array.dtype), name
        assert np.array_equal(ours[name], array), name


def test_the_index_has_the_form_of_t5xs_own(shared: Path, tmp_path: Path) -> None:
    """Every entry of a parameter, whether it lies in the index or beside it; the optimizer's state is left out."""
    source = shared / "golden" / "t5x_legacy"
    imported = read_t5x(source)
    written = write_t5x(imported.params, imported.config, tmp_path, 1003)
    theirs, ours = (
        msgpack_restore((place / "checkpoint").read_bytes()) for place in (source / "checkpoint_1003", written)
    )
    assert ours["version"] == theirs["version"]
    assert ours["optimizer"].keys() == theirs["optimizer"].keys()
    assert int(ours["optimizer"]["state"]["step"]) == int(theirs["optimizer"]["state"]["step"]) == 1003

    def form(node):
        if not isinstance(node, dict) or "driver" in node:
            return "array"
        return {name: form(child) for name, child in node.items()}

    assert form(ours["optimizer"]["target"]) == form(theirs["optimizer"]["target"])
    entry, model = (index["optimizer"]["target"]["decoder"]["logits_dense"]["kernel"] for index in (ours, theirs))
    assert entry == model
    files = {
        place: (place / "target.decoder.logits_dense.kernel" / ".zarray").read_text()
        for place in (source / "checkpoint_1003", written)
    }
    assert len(set(files.values())) == 1


GATES = {
    "byt5": None,
    "mrt5": GateConfig(layer=1, threshold=-15.0),
    "log_sigmoid": GateConfig(layer=1, kind="log_sigmoid"),
    "pooling": GateConfig(layer=1, kind="every_kth", stride=2, reduction="convolution"),
}


@pytest.mark.parametrize("kind", GATES)
def test_there_and_back_by_the_command_line_gives_the_same_model(tmp_path, byt5, random_params, kind, capsys) -> None:
    """The gate and what T5X's arrays do not say too: softmax1, dropout."""
    config = dataclasses.replace(byt5, gate=GATES[kind], softmax1=kind == "mrt5", dropout_rate=0.25)
    params = random_params(config)
    params["token_embedder"]["embedding"][:] = 0  # whole chunks of zeros are written
    write_t5x(params, config, tmp_path, 7)
    assert main(["convert", "t5x-import", str(tmp_path / "checkpoint_7"), str(tmp_path / "model")]) == 0
    assert main(["convert", "t5x-export", str(tmp_path / "model"), str(tmp_path / "again")]) == 0
    assert ("has no gate" in capsys.readouterr().out) == (kind != "byt5")
    again = read_t5x(tmp_path / "again")
    assert again.config == config
    assert equal(again.params, params)


def test_an_export_that_exists_is_left_alone(tmp_path, byt5, random_params, capsys) -> None:
    write_t5x(random_params(byt5), byt5, tmp_path, 7)
    assert main(["convert", "t5x-import", str(tmp_path / "checkpoint_7"), str(tmp_path / "model")]) == 0
    assert main(["convert", "t5x-export", str(tmp_path / "model"), str(tmp_path / "model")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "exists already" in line


def test_only_what_is_read_is_fetched_from_a_bucket(
    bucket_server, monkeypatch, tmp_path, byt5, random_params, flat_params
) -> None:
    """A published checkpoint by its path: its optimizer state stays where it is."""
    arrays = {f"target.{name.replace('/', '.')}": array for name, array in flat_params(byt5).items()}
    arrays |= {"state.param_states.encoder.encoder_norm.scale.v": np.ones(30, np.float32)}
    source = tmp_path / "checkpoint_9"
    source.mkdir()
    layouts.legacy(source, arrays)
    target = as_path(bucket_server.url(f"{tmp_path.name}/checkpoint_9"))
    folders.send(source, target, LocalFiles().below(source))
    fetched, fetch = [], folders.fetch

    def noting(place, folder, names) -> None:
        fetched.extend(names)
        fetch(place, folder, names)

    monkeypatch.setattr(folders, "fetch", noting)
    assert main(["convert", "t5x-import", str(target), str(tmp_path / "model")]) == 0
    assert equal(read_model_dir(tmp_path / "model").params, random_params(byt5))
    assert fetched
    assert not [name for name in fetched if name.startswith("state.")]
