"""`mrt5 convert` from the command line: what it writes, what it refuses, and that nothing half-done stays."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from mrt5_jax.cli.main import main
from mrt5_jax.config import GateConfig
from mrt5_jax.interop import model_dirs
from mrt5_jax.interop.hf import differences, write_hf
from mrt5_jax.interop.model_dirs import complete_or_absent, read_model_dir, write_model_dir
from mrt5_jax.interop.models import Model

from . import t5x_layouts


@pytest.fixture
def hugging_face(tmp_path: Path, byt5, random_params) -> Path:
    folder = tmp_path / "byt5"
    folder.mkdir()
    write_hf(random_params(byt5), byt5, folder)
    return folder


def equal(left, right) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_there_and_back_gives_the_same_folder(hugging_face, tmp_path, byt5, random_params, capsys) -> None:
    assert main(["convert", "hf-import", str(hugging_face), str(tmp_path / "model"), "--repeat_check"]) == 0
    model = read_model_dir(tmp_path / "model")
    assert model.config == byt5
    assert equal(model.params, random_params(byt5))
    output = capsys.readouterr().out
    assert "repeat check: every tensor is the same" in output
    assert output.endswith(f"done: {tmp_path / 'model'}\n")

    assert main(["convert", "hf-export", str(tmp_path / "model"), str(tmp_path / "again")]) == 0
    assert differences(hugging_face, tmp_path / "again") == []
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (hugging_face, tmp_path / "again"))
    assert after == before
    assert names_in(tmp_path) == {"byt5", "model", "again"}


def test_an_added_gate_is_reported_and_exported(hugging_face, tmp_path, capsys) -> None:
    flags = ["--add_gate", "--gate_layer=2", "--gate_bias=5", "--softmax1", "--repeat_check"]
    assert main(["convert", "hf-import", str(hugging_face), str(tmp_path / "model"), *flags]) == 0
    model = read_model_dir(tmp_path / "model")
    assert model.config.gate is not None
    assert (model.config.gate.layer, model.config.gate.bias_init, model.config.softmax1) == (2, 5.0, True)
    (new,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("new")]
    assert new.split()[:3] == ["new", "3", "17"]
    assert "encoder/gate/kernel" in new

    assert main(["convert", "hf-export", str(tmp_path / "model"), str(tmp_path / "again")]) == 0
    added = differences(hugging_face, tmp_path / "again")
    assert added == [
        f"encoder.block.2.delete_gate.{part}"
        for part in ("feed_forward.bias", "feed_forward.weight", "layer_norm.weight")
    ]


def test_a_t5x_checkpoint_becomes_a_model_dir(tmp_path, byt5, random_params, flat_params) -> None:
    source = tmp_path / "checkpoint_9"
    source.mkdir()
    arrays = {f"target.{name.replace('/', '.')}": array for name, array in flat_params(byt5).items()}
    t5x_layouts.legacy(source, arrays)
    assert main(["convert", "t5x-import", str(source), str(tmp_path / "model")]) == 0
    model = read_model_dir(tmp_path / "model")
    assert (model.config, model.source) == (byt5, None)
    assert equal(model.params, random_params(byt5))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["hf-import", "{absent}", "{new}"], "is not a folder"),
        (["hf-import", "{byt5}", "{byt5}"], "exists already"),
        (["hf-import", "{byt5}", "{new}", "--gate_layer=2"], "--gate_layer needs --add_gate"),
        (["hf-import", "{byt5}", "{new}", "--add_gate", "--gate_layer=9"], "--gate_layer=9"),
        (["hf-export", "{byt5}", "{new}"], "is not a MODEL_DIR"),
        (["t5x-import", "{byt5}", "{new}"], "is no T5X checkpoint"),
        (["t5x-export", "{byt5}", "{new}"], "is not a MODEL_DIR"),
        (["jax-export", "{byt5}", "{new}"], "is not a MODEL_DIR"),
        (["hf-import", "{byt5}"], "DST"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_leaves_nothing(hugging_face, tmp_path, capsys, words, complaint) -> None:
    places = {"byt5": hugging_face, "new": tmp_path / "new", "absent": tmp_path / "absent"}
    before = names_in(hugging_face)
    assert main(["convert", *(word.format(**places) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert names_in(tmp_path) == {"byt5"}
    assert names_in(hugging_face) == before


@pytest.mark.parametrize(
    ("gate", "complaint"),
    [
        (GateConfig(layer=1, kind="log_sigmoid"), "a gate of kind = 'log_sigmoid' has no name"),
        (GateConfig(layer=1, kind="hnet"), "a gate of kind = 'hnet' has no name"),
        (GateConfig(layer=1, kind="every_kth", stride=2, reduction="segment_mean"), "has no model that pools"),
        (GateConfig(layer=1, kind="boundary_predictor"), "has no model that pools"),
    ],
    ids=["log_sigmoid", "hnet", "pooling", "boundary_predictor"],
)
def test_a_model_that_transformers_cannot_express_is_refused(
    tmp_path, byt5, random_params, capsys, gate, complaint
) -> None:
    """And told which export there is."""
    config = dataclasses.replace(byt5, gate=gate)
    write_model_dir(tmp_path / "model", Model(config, random_params(config)))
    assert main(["convert", "hf-export", str(tmp_path / "model"), str(tmp_path / "new")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert "mrt5 convert jax-export" in line
    assert names_in(tmp_path) == {"model"}


def test_an_exported_mrt5_has_its_code_and_a_card_with_the_figures_of_its_run(tmp_path, mrt5, random_params) -> None:
    """Up to the checkpoint that is exported."""
    folder = tmp_path / "vowels"
    write_model_dir(folder, Model(mrt5, random_params(mrt5)))
    lines = ['{"step": 0, "loss": 3.25}', '{"step": 0, "test/deletion_rate": 0.5}', '{"step": 9, "loss": 1}', '{"st']
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    assert main(["convert", "hf-export", str(folder), str(tmp_path / "new")]) == 0
    card = (tmp_path / "new" / "README.md").read_text()
    assert "# MrT5: vowels" in card
    assert "| training loss | 3.25 at step 0 |" in card
    assert "| test/deletion_rate | 0.5 at step 0 |" in card
    assert "at step 9" not in card
    assert "Before encoder layer 1 a delete gate" in card
    assert names_in(tmp_path / "new") == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "modeling_mrt5.py",
        "special_tokens_map.json", "tokenizer_config.json",
    }  # fmt: skip


def truncate(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-1])


def pickle_alone(weights: Path) -> None:
    weights.rename(weights.with_name("pytorch_model.bin"))


def in_one_shard(weights: Path, **homes: str) -> None:
    """With an index of more than is there."""
    files = dict.fromkeys(load_file(weights), SHARD) | homes
    weights.rename(weights.with_name(SHARD))
    index = {"metadata": {}, "weight_map": files}
    weights.with_name("model.safetensors.index.json").write_text(json.dumps(index))


SHARD, LOST = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (truncate, "model.safetensors is damaged"),
        (pickle_alone, "pytorch_model.bin is a pickle, which can hold code and is never opened"),
        (lambda weights: in_one_shard(weights, more=LOST), f"names the file {LOST}, which is not beside it"),
        (lambda weights: in_one_shard(weights, more=SHARD), f"{SHARD} lacks more, which model.safetensors.index.json"),
    ],
    ids=["truncated", "pickle", "lost shard", "tensor that is not there"],
)
def test_weights_that_cannot_be_read_are_named_in_one_line_and_leave_nothing(
    hugging_face, tmp_path, capsys, damage, complaint
) -> None:
    damage(hugging_face / "model.safetensors")
    assert main(["convert", "hf-import", str(hugging_face), str(tmp_path / "model")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(hugging_face) in line
    assert complaint in line
    assert names_in(tmp_path) == {"byt5"}


def test_code_that_a_folder_names_is_not_run_by_an_import(hugging_face, tmp_path, capsys) -> None:
    config = hugging_face / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {"AutoConfig": "theirs.Config"}}))
    (hugging_face / "theirs.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')\n")
    assert main(["convert", "hf-import", str(hugging_face), str(tmp_path / "model")]) == 0
    assert "names code (auto_map): it is not run" in capsys.readouterr().out
    assert names_in(tmp_path) == {"byt5", "model"}


def test_a_repeat_check_that_fails_leaves_nothing(hugging_face, tmp_path, monkeypatch, capsys) -> None:
    read = model_dirs.read_model_dir

    def changed(folder):
        model = read(folder)
        model.params["encoder"]["encoder_norm"]["scale"] = model.params["encoder"]["encoder_norm"]["scale"] + 1
        return model

    monkeypatch.setattr(model_dirs, "read_model_dir", changed)
    assert main(["convert", "hf-import", str(hugging_face), str(tmp_path / "model"), "--repeat_check"]) == 2
    assert "encoder.final_layer_norm.weight did not survive" in capsys.readouterr().err
    assert names_in(tmp_path) == {"byt5"}


def test_an_interrupted_write_leaves_nothing(tmp_path) -> None:
    def interrupted() -> None:
        with complete_or_absent(tmp_path / "model") as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names_in(tmp_path) == set()


def test_an_empty_folder_may_be_filled(tmp_path) -> None:
    (tmp_path / "model").mkdir()
    with complete_or_absent(tmp_path / "model") as folder:
        (folder / "whole").touch()
    assert names_in(tmp_path / "model") == {"whole"}
