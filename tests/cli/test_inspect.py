"""`mrt5 inspect`: any bytes in, what is deleted out; mistakes in one line."""

import json
import re
from pathlib import Path

import pytest

from mrt5_jax.api.loading import load
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


def test_many_texts_have_a_table_of_what_is_deleted(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text a row, with the counts of its bytes; each text stands under its name."""
    texts = {"en.txt": b"an ox", "el.txt": "\u03b1\u03b2".encode()}
    for name, data in texts.items():
        (tmp_path / name).write_bytes(data)
    files = [str(tmp_path / name) for name in texts]
    assert main(["inspect", f"--model_dir={model_dir}", "--file", *files, f"--html={tmp_path / 'page.html'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = load(str(model_dir)).deletions(list(texts.values()))
    for (name, data), deletions in zip(texts.items(), found, strict=True):
        assert name in lines
        rate = 1 - len(deletions.kept_bytes) / len(data)
        (row,) = (line.split() for line in lines if line.split()[:2] == [name, str(len(data))])
        assert row[2] == f"{rate:.1%}"
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "What is deleted of 2 texts" in page
    assert re.findall("<h2>(.*?)</h2>", page) == list(texts)


def test_a_folder_is_a_gallery(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All texts of a folder in the order of their names, the beginning of each."""
    folder = tmp_path / "texts"
    folder.mkdir()
    texts = {"en": b"an ox", "ar": "\u0627\u0644\u0633\u0644\u0627\u0645".encode()}
    for name, data in texts.items():
        (folder / f"{name}.txt").write_bytes(data)
    (folder / "notes.md").write_text("not shown")
    page = tmp_path / "gallery.html"
    given = [f"--model_dir={model_dir}", f"--folder={folder}", "--text_bytes=7", f"--html={page}"]
    assert main(["inspect", *given]) == 0
    out = capsys.readouterr().out
    assert "ar: the first 6 of 12 bytes" in out
    assert "en: the first" not in out
    shown = page.read_text(encoding="utf-8")
    assert re.findall("<h2>(.*?)</h2>", shown) == ["ar", "en"]
    assert re.findall('<th scope="row">(.*?)</th><td>(.*?)</td>', shown) == [("ar", "6"), ("en", "5")]
    assert "ar: the first 6 of 12 bytes" in shown


def test_many_texts_that_are_cut_are_counted_and_not_named(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcde":
        (tmp_path / f"{name}.txt").write_text("many letters " * (1 if name == "a" else 5))
    given = [f"--model_dir={model_dir}", f"--folder={tmp_path}"]
    assert main(["inspect", *given, "--text_bytes=20"]) == 0
    assert "Of 4 texts the first 20 bytes, and no part of a character." in capsys.readouterr().out
    assert main(["inspect", *given]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^\d texts are longer than the model's input: cut into windows of at most", out, re.MULTILINE)
    assert "b is longer" not in out


def test_attention_to_deleted_positions_is_shown_and_written(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line a text; on the page and in the lines of each deleted id, which kept one attends to it most."""
    data = bytes(range(65, 105))
    (tmp_path / "bytes.bin").write_bytes(data)
    page, lines = tmp_path / "page.html", tmp_path / "lines.jsonl"
    given = [f"--model_dir={model_dir}", f"--file={tmp_path / 'bytes.bin'}", f"--html={page}", f"--json={lines}"]
    assert main(["inspect", *given, "--attention_to_deleted"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "of the attention of kept positions, deleted ones receive" in out
    assert f"written: {lines}" in out
    (found,) = load(str(model_dir)).deletions([data])
    line = json.loads(lines.read_text())
    assert (line["text"], line["model"], line["step"]) == ("bytes.bin", str(model_dir), 0)
    assert [token for window in line["windows"] for token in window["ids"]] == found.ids
    assert [kept for window in line["windows"] for kept in window["keep"]] == found.keep
    for window in line["windows"]:
        attended = window["attention_to_deleted"]["attended_most_by"]
        assert [one["position"] for one in attended] == [at for at, kept in enumerate(window["keep"]) if not kept]
        assert all(window["keep"][one["by"]] for one in attended)
    assert page.read_text(encoding="utf-8").count("attended to most by") == found.keep.count(False) > 0


def test_files_of_one_name_are_told_apart_and_one_is_not_taken_twice(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / folder / "x.txt" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(b"ox")
    page = tmp_path / "page.html"
    assert main(["inspect", f"--model_dir={model_dir}", "--file", *map(str, paths), f"--html={page}"]) == 0
    assert re.findall("<h2>(.*?)</h2>", page.read_text(encoding="utf-8")) == list(map(str, paths))
    capsys.readouterr()
    assert main(["inspect", f"--model_dir={model_dir}", "--file", *map(str, paths), str(paths[0])]) == 2
    assert capsys.readouterr().err == f"mrt5: --file={paths[0]}: is given twice\n"


def test_two_models_are_compared(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both stand below each other, with how many bytes they think alike of."""
    other = make_model_dir(tmp_path / "other", "config.GateConfig.threshold=-1.0")
    given = [f"--model_dir={model_dir}", f"--against={other}", "--against_step=0", f"--html={tmp_path / 'page.html'}"]
    assert main(["inspect", *given, "--text", "#Hello", "ab"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    models = [load(str(path)) for path in (model_dir, other)]
    for place, text in enumerate(("#Hello", "ab"), start=1):
        kept = [model.deletions([text])[0].keep[:-1] for model in models]
        pairs = list(zip(*kept, strict=True))
        counts = [pairs.count(pair) for pair in ((True, True), (False, False), (False, True), (True, False))]
        both, neither, first, second = counts
        assert f"text {place}: model, step 0" in out
        assert f"text {place}: other, step 0" in out
        assert (
            f"both keep {both} bytes, both delete {neither}; {first} are deleted by model, step 0 alone, "
            f"{second} by other, step 0 alone" in out
        )
    headings = re.findall("<h2>(.*?)</h2>", (tmp_path / "page.html").read_text(encoding="utf-8"))
    assert headings == [f"text {place}: {name}, step 0" for place in (1, 2) for name in ("model", "other")]


def test_a_page_of_two_models_needs_one_range_of_gate_values(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_model_dir(tmp_path / "other", "config.GateConfig.scale=-40.0")
    given = [f"--model_dir={model_dir}", f"--against={other}", "--text=a", f"--html={tmp_path / 'page.html'}"]
    assert main(["inspect", *given]) == 2
    assert "have the ranges -40..0, -30..0" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


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
        (["--text", "a", ""], ["--text: text 2 empty"]),
        (["--text=a", "--text_bytes=0"], ["--text_bytes=0", "at least 1"]),
        (["--folder=nowhere"], ["--folder=nowhere", ".txt"]),
        (["--text=a", "--json=no/such/lines.jsonl"], ["--json=no/such/lines.jsonl", "no/such is not there"]),
        (["--text=a", "--html=."], ["--html=.", "a folder"]),
        (["--text=a", "--html=same", "--json=same"], ["--json=same", "--html"]),
        (["--text=a", "--against_step=0"], ["--against_step=0", "--against"]),
        (["--text=a", "--against=nowhere"], ["nowhere"]),
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
