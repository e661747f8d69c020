"""`mrt5 inspect`: the bytes of texts, in colour: kept, deleted, with the gate's values; two models below each other."""

import argparse
import collections
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrt5_jax.cli.model_flags import add_model_arguments
from mrt5_jax.errors import UserError
from mrt5_jax.report.visible import visible_text
from mrt5_jax.runs.files import explained, given_path, in_bucket, read_bytes

if TYPE_CHECKING:
    from mrt5_jax.api.model import Model
    from mrt5_jax.api.results import Deletions, TextDeletions

_COMPARED_KINDS = (
    "vowel",
    "consonant",
    "letter of another script",
    "space",
    "continuation byte",
    "first byte of a word",
)
"""Columns of the table that has a text a row."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds flags for one or two models and some texts."""
    add_model_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", nargs="+", action="extend", metavar="TEXT", help="the texts themselves")
    source.add_argument(
        "--file",
        nargs="+",
        action="extend",
        type=given_path,
        metavar="FILE",
        help="files of them, a text each, such as one a language; any bytes will do",
    )
    parser.add_argument(
        "--against", type=given_path, metavar="MODEL", help="another model: show what both delete, below each other"
    )
    parser.add_argument("--against_step", type=int, metavar="N", help="its checkpoint (default: the newest)")
    parser.add_argument("--html", type=given_path, metavar="FILE", help="also write a self-contained page")


def run(args: argparse.Namespace) -> int:
    """Prints the texts with what is deleted; writes the page where asked."""
    texts = _read(args)
    if args.html and not in_bucket(args.html) and not Path(args.html).absolute().parent.is_dir():
        raise UserError(f"--html={args.html}: the folder {Path(args.html).parent} is not there")
    if args.against_step is not None and not args.against:
        raise UserError(f"--against_step={args.against_step}: has no effect without --against")

    from rich.console import Console

    from mrt5_jax.api.loading import load
    from mrt5_jax.evaluation.terminal import LEGEND

    models = [load(args.model_dir, step=args.step, threshold=args.threshold)]
    if args.against:
        models.append(load(args.against, step=args.against_step))
    _check_ranges(args, models)
    found = [model.deletions([data for _, data in texts]) for model in models]
    names = _model_names(args, models)
    console = Console()
    cut = _cut_lines([name for name, _ in texts], names, models, found)
    for line in cut:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    headings = _headings([name for name, _ in texts], names)
    for number, of_text in enumerate(zip(*found, strict=True)):
        for heading, deletions in zip(headings[number], of_text, strict=True):
            _print(console, deletions, heading if len(texts) > 1 or len(models) > 1 else "")
        if len(of_text) == 2:
            console.print(agreement_line(of_text[0], of_text[1], names), markup=False, highlight=False, soft_wrap=True)
    console.print(LEGEND, style="dim", highlight=False)
    if len(texts) > 1:
        for name, deletions in zip(names, found, strict=True):
            console.print(_table(name if len(models) > 1 else "", [name for name, _ in texts], deletions))
    if args.html:
        _write_page(args, texts, headings, names, models, found, cut)
        console.print(f"written: {args.html}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _read(args: argparse.Namespace) -> list[tuple[str, bytes]]:
    """The texts by name, in order."""
    texts = []
    for number, text in enumerate(args.text or (), start=1):
        name = "text" if len(args.text) == 1 else f"text {number}"
        texts.append((name, text.encode(errors="surrogateescape"), "--text"))
    for path in args.file or ():
        with explained(path, "--file="):
            texts.append((visible_text(Path(path).name), read_bytes(path), f"--file={path}"))
    for name, data, flag in texts:
        if not data:
            of = f" {name}" if flag == "--text" and len(texts) > 1 else ""
            raise UserError(f"{flag}:{of} empty, nothing to inspect")
    return [(name, data) for name, data, _ in texts]


def _check_ranges(args: argparse.Namespace, models: "Sequence[Model]") -> None:
    """A page has one legend, and so one range of gate values."""
    ranges = sorted({model.config.gate.scale for model in models if model.config.gate is not None})
    if args.html and len(ranges) > 1:
        shown = ", ".join(f"{k:g}..0" for k in ranges)
        raise UserError(f"--html={args.html}: the models' gate values have the ranges {shown}: write a page of each")


def _model_names(args: argparse.Namespace, models: "Sequence[Model]") -> list[str]:
    """What the models are called: by their last part or, where that is the same, as they were given."""
    given = [args.model_dir, args.against][: len(models)]
    short = [Path(name).name or Path(name).resolve().name for name in given]
    names = short if len(set(short)) == len(models) else given
    called = [f"{visible_text(name)}, step {model.step}" for name, model in zip(names, models, strict=True)]
    if len(set(called)) < len(models) and args.threshold is not None:
        called[0] += f", threshold {args.threshold:g}"
    return called


def _headings(texts: Sequence[str], models: Sequence[str]) -> list[list[str]]:
    """Of each text one for each model; the model is named where there are two."""
    return [[f"{text}: {model}" if len(models) > 1 else text for model in models] for text in texts]


def _cut_lines(
    texts: Sequence[str], names: Sequence[str], models: "Sequence[Model]", found: "Sequence[Deletions]"
) -> list[str]:
    lines = []
    for name, model, deletions in zip(names, models, found, strict=True):
        for text, of_text in zip(texts, deletions, strict=True):
            if len(of_text.windows) > 1:
                of_model = "the model's" if len(models) == 1 else f"that of {name}"
                what = "The text" if len(texts) == 1 else text
                lines.append(
                    f"{what} is longer than {of_model} input: cut into {len(of_text.windows):,} windows of at most "
                    f"{model.input_length - 1:,} bytes, each seen alone."
                )
    return lines


def _print(console: Any, found: "TextDeletions", heading: str) -> None:
    from mrt5_jax.evaluation.terminal import render_pieces, statistics_line

    if heading:
        console.print(heading, style="bold", markup=False, highlight=False)
    for number, window in enumerate(found.windows, start=1):
        if len(found.windows) > 1:
            console.print(f"window {number}", style="bold")
        for line in render_pieces(window, found.scale, console.width):
            console.print(line)
    console.print(statistics_line(found.pieces), highlight=False)


def agreement_line(one: "TextDeletions", other: "TextDeletions", names: Sequence[str]) -> str:
    """Says of how many bytes of a text two models think alike."""
    from mrt5_jax.report.texts import byte_fates

    kept = zip(byte_fates(one)[1], byte_fates(other)[1], strict=True)
    fates = collections.Counter(kept)
    both, neither = fates[True, True], fates[False, False]
    first, second = fates[False, True], fates[True, False]
    return (
        f"both keep {both:,} bytes, both delete {neither:,}; {first:,} are deleted by {names[0]} alone, "
        f"{second:,} by {names[1]} alone"
    )


def _table(title: str, texts: Sequence[str], found: "Deletions") -> Any:
    """A text a row: its bytes, what share of them is deleted, and of some kinds of bytes."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from mrt5_jax.report.byte_kinds import count_deleted
    from mrt5_jax.report.texts import byte_fates

    table = Table(title=escape(title) or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0)
    for number, heading in enumerate(("text", "bytes", "deleted", *_COMPARED_KINDS)):
        table.add_column(heading, justify="right" if number else "left", no_wrap=number == 0)
    for name, of_text in zip(texts, found, strict=True):
        data, keep = byte_fates(of_text)
        kinds = count_deleted(data, keep)
        shares = [f"{kinds[kind].rate:.1%}" if kind in kinds else "-" for kind in _COMPARED_KINDS]
        table.add_row(escape(name), f"{len(data):,}", f"{keep.count(False) / len(keep):.1%}", *shares)
    return table


def _write_page(
    args: argparse.Namespace,
    texts: Sequence[tuple[str, bytes]],
    headings: Sequence[Sequence[str]],
    names: Sequence[str],
    models: "Sequence[Model]",
    found: "Sequence[Deletions]",
    cut: Sequence[str],
) -> None:
    from mrt5_jax.api.results import Deletions

    what = texts[0][0] if len(texts) == 1 else f"{len(texts):,} texts"
    if len(models) == 1:
        introduction = f"What the gate of {visible_text(args.model_dir)} deletes at step {models[0].step}."
    else:
        introduction = f"What the gates of {' and of '.join(names)} delete."
    shown = Deletions(list(itertools.chain.from_iterable(zip(*found, strict=True))))
    flat = list(itertools.chain.from_iterable(headings))
    shown.write_page(args.html, f"What is deleted of {what}", " ".join([introduction, *cut]), flat)
