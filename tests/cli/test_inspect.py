"""`mrt5 inspect`: any bytes in, what is deleted out; mistakes in one line."""

from pathlib import Path

import pytest

from mrt5_jax.cli.main import main

from .small_run import make_model_dir


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir(tmp_path_factory.mktemp("run") / "model")


def test_text(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Readable without colour; a legend, and the statistics by kind in the end."""
    assert main(["inspect", f"--model_dir={model_dir}", "--text=#aé日b"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "#aé日b</s>"
    assert set(lines[1]) <= set("x1239 ")
    assert lines[2].replace(" ", "").isdigit()
    assert "x deleted" in out
    assert "8 bytes:" in " ".join(out.split())
    assert "\x1b" not in out  # not on a terminal


def test_file_of_any_bytes_in_windows_and_page(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text longer than the model's input is cut, which is said; the page has all windows."""
    data = bytes(range(256)) + "ağ".encode()
    (tmp_path / "bytes.bin").write_bytes(data)
    page = tmp_path / "page.html"
    page.write_text("an earlier page")
    assert main(["inspect", f"--model_dir={model_dir}", f"--file={tmp_path / 'bytes.bin'}", f"--html={page}"]) == 0
    out = capsys.readouterr().out
    assert "windows of at most 11 bytes" in " ".join(out.split())
    assert f"written: {page}" in out
    html = page.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>")
    assert html.count('class="text"') == html.count("<h2>") == out.count("window ")
    assert "bytes.bin, window 1<" in html
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_model_without_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bindings = ("config.ModelConfig.gate=None", "config.RunConfig.controller=None")
    byt5 = make_model_dir(tmp_path / "byt5", *bindings)
    assert main(["inspect", f"--model_dir={byt5}", "--text=a"]) == 2
    assert "has no gate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--text="], ["--text", "empty"]),
        ([], ["--text", "--file"]),
        (["--text=a", "--file=b"], ["not allowed with"]),
        (["--file=nowhere.txt"], ["nowhere.txt", "No such file"]),
        (["--text=a", "--html=no/such/page.html"], ["no/such/page.html", "no/such is not there"]),
        (["--text=a", "--step=5"], ["no step 5"]),
        (["--text=a", "--step=five"], ["--step", "five"]),
    ],
)
def test_mistakes_are_one_line(
    model_dir: Path, capsys: pytest.CaptureFixture[str], argv: list[str], words: list[str]
) -> None:
    assert main(["inspect", f"--model_dir={model_dir}", *argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    for word in words:
        assert word in error


def test_model_dir_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", f"--model_dir={tmp_path}", "--text=a"]) == 2
    assert "model_config.json is not there" in capsys.readouterr().err
