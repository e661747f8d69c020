"""`mrt5 inspect`: the bytes of a text, in colour: kept, deleted, with the gate's values."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrt5_jax.cli.model_flags import add_model_arguments
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import explained, given_path, in_bucket, read_bytes

if TYPE_CHECKING:
    from mrt5_jax.api.results import TextDeletions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds flags for a model and a text."""
    add_model_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="the text itself")
    source.add_argument("--file", type=given_path, metavar="FILE", help="a file of it; any bytes will do")
    parser.add_argument("--html", type=given_path, metavar="FILE", help="also write a self-contained page")


def run(args: argparse.Namespace) -> int:
    """Prints the text with what is deleted; writes the page where asked."""
    data = _read(args)
    if args.html and not in_bucket(args.html) and not Path(args.html).absolute().parent.is_dir():
        raise UserError(f"--html={args.html}: the folder {Path(args.html).parent} is not there")

    from rich.console import Console

    from mrt5_jax.api.loading import load

    model = load(args.model_dir, step=args.step, threshold=args.threshold)
    deletions = model.deletions([data])
    cut = _cut_line(len(deletions[0].windows), model.input_length)
    _print(Console(), deletions[0], cut)
    if args.html:
        introduction = " ".join([f"What the gate of {args.model_dir} deletes at step {model.step}.", *cut])
        name = Path(args.file).name if args.file else "text"
        deletions.write_page(args.html, f"What is deleted of {name}", introduction, [name])
        Console().print(f"written: {args.html}", soft_wrap=True, highlight=False)
    return 0


def _read(args: argparse.Namespace) -> bytes:
    if args.text is not None:
        data, name = args.text.encode(errors="surrogateescape"), "--text"
    else:
        name = f"--file={args.file}"
        with explained(args.file, "--file="):
            data = read_bytes(args.file)
    if not data:
        raise UserError(f"{name}: empty, nothing to inspect")
    return data


def _cut_line(num_windows: int, input_length: int) -> list[str]:
    if num_windows == 1:
        return []
    return [
        f"The text is longer than the model's input: cut into {num_windows:,} windows of at most "
        f"{input_length - 1:,} bytes, each seen alone."
    ]


def _print(console: Any, found: "TextDeletions", cut: Sequence[str]) -> None:
    from mrt5_jax.evaluation.terminal import LEGEND, render_pieces, statistics_line

    for line in cut:
        console.print(line, highlight=False)
    for number, window in enumerate(found.windows, start=1):
        if len(found.windows) > 1:
            console.print(f"window {number}", style="bold")
        for line in render_pieces(window, found.scale, console.width):
            console.print(line)
    console.print(LEGEND, style="dim", highlight=False)
    console.print(statistics_line(found.pieces), highlight=False)
