"""Models of the hub by their id: what is downloaded, from where, and what is said where it cannot be."""

from pathlib import Path

import pytest

from mrt5_jax.cli.main import main
from mrt5_jax.errors import UserError
from mrt5_jax.interop.hf import write_hf
from mrt5_jax.interop.hub import hub_folder, is_hub_id
from mrt5_jax.interop.model_dirs import read_model_dir

from . import hub_server

pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: the hf extra")


@pytest.fixture
def hub(tmp_path: Path, mrt5, random_params, monkeypatch):
    """A hub with a model that has code and a pickle beside its weights; nothing else may be asked."""
    folder = tmp_path / "published"
    folder.mkdir()
    write_hf(random_params(mrt5), mrt5, folder)
    (folder / "modeling_mrt5.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')\n")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with hub_server.serve({"someone/mrt5": folder}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def test_a_model_comes_by_its_id_without_code_and_pickles(hub, tmp_path, mrt5) -> None:
    assert main(["convert", "hf-import", "someone/mrt5", str(tmp_path / "model"), "--repeat_check"]) == 0
    assert read_model_dir(tmp_path / "model").config == mrt5
    assert {Path(name).suffix for name in hub.fetched} == {".json", ".safetensors"}
    assert not (tmp_path / "touched").exists()


def test_a_model_that_has_pickles_alone_is_refused_and_they_stay_where_they_are(hub, tmp_path, capsys) -> None:
    (hub.models["someone/mrt5"] / "model.safetensors").unlink()
    assert main(["convert", "hf-import", "someone/mrt5", str(tmp_path / "model")]) == 2
    complaint = capsys.readouterr().err.strip().splitlines()[-1]  # after the bars of the download
    assert "someone/mrt5: on the Hugging Face hub" in complaint
    assert "it has no safetensors" in complaint
    assert {Path(name).suffix for name in hub.fetched} == {".json"}
    assert not (tmp_path / "model").exists()


def test_what_the_cache_has_is_not_downloaded_again(hub) -> None:
    first = hub_folder("someone/mrt5")
    hub.fetched.clear()
    assert hub_folder("someone/mrt5@v1") == first
    assert hub.fetched == []


@pytest.mark.parametrize(
    ("model_id", "complaint"),
    [("someone/else", "there is no such model"), ("someone/mrt5@v2", "it has no revision v2")],
)
def test_what_the_hub_does_not_have_is_said_in_one_line(hub, tmp_path, capsys, model_id, complaint) -> None:
    assert main(["convert", "hf-import", model_id, str(tmp_path / "model")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert model_id in line
    assert complaint in line
    assert not (tmp_path / "model").exists()


def test_a_hub_that_is_out_of_reach_is_said_in_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"someone/mrt5: .*cannot be reached, and the cache does not have it") as caught:
        hub_folder("someone/mrt5")
    assert "\n" not in str(caught.value)


def test_what_is_a_path_is_asked_of_nobody(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_hub_id("google/byt5-small")
    assert is_hub_id("google/byt5-small@main")
    for path in ("runs/misspelt", "byt5", "./google/byt5", "/tmp/byt5", "gs://bucket/byt5", "a/b/c", "~/byt5"):
        assert not is_hub_id(path), path
