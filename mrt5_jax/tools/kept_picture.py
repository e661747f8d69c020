"""A picture of what models keep of one sentence in five scripts.

python -m mrt5_jax.tools.kept_picture NAME=MODEL_DIR [NAME=MODEL_DIR ...] --out docs/schemes.svg
"""

import argparse
import html
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrt5_jax.data.vocabulary import EOS_ID, encode
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.inspection import Piece, make_inspector, pieces
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.runs.files import explained, files_for, given_path
from mrt5_jax.runs.model_dir import read_model_config
from mrt5_jax.runs.restoring import restore_params
from mrt5_jax.selection.selectors import check_examples

SENTENCES = (
    "All human beings are born free.",
    "Все люди рождаются свободными.",  # noqa: RUF001
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι.",  # noqa: RUF001
    "सभी मनुष्य जन्म से स्वतन्त्र हैं।",
    "人人生而自由。",
)
"""From the first article of the Universal Declaration of Human Rights."""

_CELL, _LINE, _MARGIN = 13, 24, 150
_KEPT = "#2f6db5"


class Drawn(NamedTuple):
    """A model, and the pieces of each sentence."""

    name: str
    sentences: list[list[Piece]]


def keep_of(model_dir: str, name: str) -> Drawn:
    """Runs a model as far as its selector.

    Raises:
        UserError: there is no model, it has no gate, or an oracle's file does not have the sentences.
    """
    config = read_model_config(model_dir)
    if config.gate is None:
        raise UserError(f"{model_dir} holds a ByT5, which keeps everything: give a model with a gate")
    ids = [[*encode(sentence).tolist(), EOS_ID] for sentence in SENTENCES]
    tokens = np.zeros((len(ids), max(map(len, ids))), np.int32)
    for row, one in enumerate(ids):
        tokens[row, : len(one)] = one
    check_examples(config.gate, [{"encoder_input_tokens": tokens}], evaluation=True)
    keep = np.asarray(make_inspector(MrT5(config))(restore_params(model_dir, None).params, tokens).keep)
    nothing = np.zeros(tokens.shape[1], np.float32)
    return Drawn(
        name,
        [
            pieces(row[row != EOS_ID], kept[row != EOS_ID], nothing[row != EOS_ID])
            for row, kept in zip(tokens, keep, strict=True)
        ],
    )


def draw(models: Sequence[Drawn]) -> str:
    """Returns an SVG: a line a model and sentence, a cell a character, darker the more of its bytes are kept."""
    parts, y = [], 0
    for number in range(len(SENTENCES)):
        for model in models:
            parts += _line(model.name, model.sentences[number], y)
            y += _LINE
        y += _LINE // 2
    width = _MARGIN + (max(len(found) for model in models for found in model.sentences) + 6) * _CELL
    size = f'width="{width}" height="{y}" font-family="sans-serif" font-size="13"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""])


def _line(name: str, found: Sequence[Piece], y: int) -> list[str]:
    def write(text: str, x: int, how: str) -> str:
        return f'<text x="{x}" y="{y + 16}" {how}>{html.escape(text)}</text>'

    parts = [write(name, _MARGIN - 8, 'text-anchor="end"')]
    for place, piece in enumerate(found):
        x, share = _MARGIN + place * _CELL, 1 - piece.num_deleted / len(piece.keep)
        box = f'x="{x}" y="{y + 2}" width="{_CELL - 1}" height="{_LINE - 5}" fill="{_KEPT}"'
        if share > 0:
            parts.append(f'<rect {box} fill-opacity="{0.15 + 0.6 * share:.2f}"/>')
        parts.append(write(piece.text, x + _CELL // 2, 'text-anchor="middle"'))
    deleted, size = sum(piece.num_deleted for piece in found), sum(len(piece.keep) for piece in found)
    return [*parts, write(f"{1 - deleted / size:.0%}", _MARGIN + (len(found) + 1) * _CELL, 'fill="#666"')]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL_DIR")
    parser.add_argument("--out", required=True, metavar="FILE", help="the SVG to write")
    args = parser.parse_args(arguments)
    try:
        named = [one.partition("=") for one in args.models]
        if wrong := [one for one, (_, sign, folder) in zip(args.models, named, strict=True) if not (sign and folder)]:
            raise UserError(f"{wrong[0]}: should be NAME=MODEL_DIR")
        out, picture = given_path(args.out), draw([keep_of(given_path(folder), name) for name, _, folder in named])
        with explained(out, "--out="):
            files_for(out).write(out, picture.encode())
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
