"""The picture of what models keep of a few sentences: a cell a character, and what is refused."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.data.vocabulary import encode
from mrt5_jax.evaluation.inspection import pieces
from mrt5_jax.runs.model_dir import write_model_config
from mrt5_jax.tools.kept_picture import SENTENCES, Drawn, draw, main

SVG = "{http://www.w3.org/2000/svg}"


def drawn(name: str, keep: bool) -> Drawn:
    rows = [encode(sentence) for sentence in SENTENCES]
    return Drawn(name, [pieces(ids, np.full(len(ids), keep), np.zeros(len(ids), np.float32)) for ids in rows])


def test_kept_characters_are_filled_and_shares_are_written_beside_them() -> None:
    everything = drawn("all & more", keep=True)
    root = ElementTree.fromstring(draw([everything, drawn("nothing", keep=False)]))
    filled = [rect.get("fill-opacity") for rect in root.iter(f"{SVG}rect") if rect.get("fill-opacity")]
    assert filled == ["0.75"] * sum(map(len, everything.sentences))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    for once_a_sentence in ("all & more", "nothing", "100%", "0%"):
        assert texts.count(once_a_sentence) == len(SENTENCES)


@pytest.mark.parametrize(
    ("model", "words"), [("nowhere", "nowhere: should be NAME=MODEL_DIR"), ("a=nowhere", "is not a MODEL_DIR")]
)
def test_what_is_no_model_is_refused_in_one_line(
    model: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "picture.svg"
    assert main([model, "--out", str(out)]) == 2
    refusal = capsys.readouterr().err
    assert words in refusal
    assert refusal.count("\n") == 1
    assert not out.exists()


def test_an_oracle_whose_file_does_not_have_the_sentences_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing that it did not say is drawn."""
    masks = tmp_path / "masks.jsonl"
    masks.write_text('{"inputs": "ab", "mask": "101"}\n')
    gate = GateConfig(1, "oracle", settings=(("masks", str(masks)),))
    write_model_config(tmp_path / "model", ModelConfig(8, 2, 4, 8, 2, 1, gate=gate))
    assert main([f"a={tmp_path / 'model'}", "--out", str(tmp_path / "picture.svg")]) == 2
    assert f"{masks} has no mask for '{SENTENCES[0]}'" in capsys.readouterr().err
    assert not (tmp_path / "picture.svg").exists()
