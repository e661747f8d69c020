"""`mrt5 inspect`: the bytes of a text, in colour: kept, deleted, with the gate's values."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import explained, given_path, in_bucket, read_bytes

DEFAULT_LENGTH = 1024
"""ByT5's input length, for models that were imported and so come without a run's configuration."""

BATCH_SIZE = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds flags for a model and a text."""
    parser.add_argument(
        "--model_dir", required=True, type=given_path, metavar="MODEL_DIR", help="made by train or convert"
    )
    parser.add_argument("--step", type=int, help="checkpoint (default: the newest)")
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

    from mrt5_jax.evaluation.inspection import inspect_windows, make_inspector, split_text
    from mrt5_jax.model.encoder_decoder import MrT5
    from mrt5_jax.runs.model_dir import read_model_config, write_atomically
    from mrt5_jax.runs.restoring import restore_params
    from mrt5_jax.runs.run_files import read_run
    from mrt5_jax.selection.selectors import deletes_hard_alone, pools

    config = read_model_config(args.model_dir)
    if config.gate is None:
        raise UserError(f"{args.model_dir} holds a ByT5, which has no gate: nothing to inspect")
    if deletes_hard_alone(config.gate):
        why = "pools positions, and has" if pools(config.gate) else "has"
        raise UserError(f"{args.model_dir} {why} no gate values to inspect")
    run = read_run(args.model_dir)
    input_length = DEFAULT_LENGTH if run is None else run.data.input_length
    restored = restore_params(args.model_dir, args.step)
    windows = split_text(data, input_length)
    inspector = make_inspector(MrT5(config) if run is None else MrT5(config, run.execution))
    found = list(inspect_windows(inspector, restored.params, windows, input_length, min(len(windows), BATCH_SIZE)))
    if not all(math.isfinite(value) for window in found for piece in window for value in piece.values):
        raise UserError(f"{args.model_dir}: gate values of this text are not finite at step {restored.step}")

    cut = _cut_line(len(windows), input_length)
    _print(Console(), found, config.gate.scale, cut)
    if args.html:
        introduction = " ".join([f"What the gate of {args.model_dir} deletes at step {restored.step}.", *cut])
        page = _page(args, found, config.gate.scale, introduction)
        try:
            write_atomically(args.html, page)
        except OSError as error:
            raise UserError(f"--html={args.html} cannot be written ({error.strerror}): give another name") from None
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


def _print(console: Any, found: Sequence[Any], scale: float, cut: Sequence[str]) -> None:
    from mrt5_jax.evaluation.terminal import LEGEND, render_pieces, statistics_line

    for line in cut:
        console.print(line, highlight=False)
    for number, window in enumerate(found, start=1):
        if len(found) > 1:
            console.print(f"window {number}", style="bold")
        for line in render_pieces(window, scale, console.width):
            console.print(line)
    console.print(LEGEND, style="dim", highlight=False)
    console.print(statistics_line([piece for window in found for piece in window]), highlight=False)


def _page(args: argparse.Namespace, found: Sequence[Any], scale: float, introduction: str) -> str:
    from mrt5_jax.evaluation.page import Section, render_page

    name = Path(args.file).name if args.file else "text"
    headings = [name] if len(found) == 1 else [f"{name}, window {number}" for number in range(1, len(found) + 1)]
    sections = [Section(heading, window) for heading, window in zip(headings, found, strict=True)]
    return render_page(f"What is deleted of {name}", introduction, sections, scale)
