"""`mrt5 inspect`: the bytes of texts, in colour: kept, deleted, with the gate's values; two models below each other."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrt5_jax.cli.model_flags import add_model_arguments
from mrt5_jax.cli.user_modules import import_modules_of_user
from mrt5_jax.errors import UserError
from mrt5_jax.report.visible import visible_text
from mrt5_jax.runs.files import as_path, explained, files_for, given_path, in_bucket, read_bytes

if TYPE_CHECKING:
    from mrt5_jax.api.model import Model
    from mrt5_jax.api.results import Deletions, TextDeletions
    from mrt5_jax.evaluation.page import CountTable
    from mrt5_jax.report.inspected import InspectedModel

_ENDING = ".txt"
_NAMED = 3
"""Texts that are cut are named one by one up to this number, and counted beyond it."""


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
    source.add_argument(
        "--folder",
        type=given_path,
        metavar="DIR",
        help=f"all files in it whose names end in {_ENDING}, a text each, named by the rest: de{_ENDING} is de",
    )
    parser.add_argument("--text_bytes", type=int, metavar="N", help="of each text, the first N bytes (default: all)")
    parser.add_argument(
        "--against", type=given_path, metavar="MODEL", help="another model: show what both delete, below each other"
    )
    parser.add_argument("--against_step", type=int, metavar="N", help="its checkpoint (default: the newest)")
    parser.add_argument(
        "--attention_to_deleted",
        action="store_true",
        help="also say how much kept positions attend to deleted ones in the layers before the gate; on the page and "
        "in the JSON lines, which one attends most to each",
    )
    parser.add_argument("--html", type=given_path, metavar="FILE", help="also write a self-contained page")
    parser.add_argument("--json", type=given_path, metavar="FILE", help="also write JSON lines, one a text and model")


def run(args: argparse.Namespace) -> int:
    """Prints the texts with what is deleted; writes the page and the JSON lines where asked."""
    _check(args)
    import_modules_of_user(args.module)
    texts, lines = _read(args)

    from rich.console import Console

    from mrt5_jax.api.loading import load
    from mrt5_jax.evaluation.terminal import LEGEND
    from mrt5_jax.report.inspected import agreement_line, attention_line, inspection_heading, text_table

    models = [load(args.model_dir, step=args.step, threshold=args.threshold)]
    if args.against:
        models.append(load(args.against, step=args.against_step))
    _check_ranges(args, models)
    found = _inspect(args, models, texts)
    lines += [line for model, one in zip(models, found, strict=True) for line in _window_lines(model, one, found)]
    console = Console()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    for line in lines:
        say(line)
    for text in texts:
        for one in found:
            several = len(texts) > 1 or len(models) > 1
            _print(console, one.texts[text], inspection_heading(text, one, found) if several else "")
            if args.attention_to_deleted:
                say(attention_line(text, one))
        if len(found) == 2:
            say(agreement_line(text, *found))
    console.print(LEGEND, style="dim", highlight=False)
    if len(texts) > 1:
        for one in found:
            console.print(_grid(text_table(one, one.name if len(models) > 1 else "")))
    for path in _write(args, found, lines):
        say(f"written: {path}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuses flags that cannot be, and places where nothing can be written, before anything is read."""
    for flag in ("html", "json"):
        path = getattr(args, flag)
        if path and not in_bucket(path) and not Path(path).absolute().parent.is_dir():
            raise UserError(f"--{flag}={path}: the folder {Path(path).parent} is not there")
        if path and Path(path).is_dir():
            raise UserError(f"--{flag}={path}: a folder: name a file in it")
    if args.html and args.html == args.json:
        raise UserError(f"--json={args.json}: is the file of --html, too: give another name")
    if args.against_step is not None and not args.against:
        raise UserError(f"--against_step={args.against_step}: has no effect without --against")
    if args.text_bytes is not None and args.text_bytes < 1:
        raise UserError(f"--text_bytes={args.text_bytes}: should be at least 1")


def _read(args: argparse.Namespace) -> tuple[dict[str, bytes], list[str]]:
    """The texts by name, in order, and what is said of those that are cut."""
    from mrt5_jax.evaluation.inspection import first_bytes

    texts, lines = {}, []
    for name, data in _named_texts(args):
        texts[name] = data if args.text_bytes is None else first_bytes(data, args.text_bytes)
        if len(texts[name]) < len(data):
            lines.append(f"{name}: the first {len(texts[name]):,} of {len(data):,} bytes")
    if len(lines) > _NAMED:
        lines = [f"Of {len(lines):,} texts the first {args.text_bytes:,} bytes, and no part of a character."]
    return texts, lines


def _named_texts(args: argparse.Namespace) -> list[tuple[str, bytes]]:
    """The texts as they were given; all names differ."""
    if args.text:
        names = ["text"] if len(args.text) == 1 else [f"text {number}" for number in range(1, len(args.text) + 1)]
        found = [(name, text.encode(errors="surrogateescape")) for name, text in zip(names, args.text, strict=True)]
        for name, data in found:
            if not data:
                raise UserError(f"--text:{f' {name}' if len(found) > 1 else ''} empty, nothing to inspect")
        return found
    flag, paths = ("--folder", _in_folder(args.folder)) if args.file is None else ("--file", args.file)
    names = [_file_name(path, flag) for path in paths]
    if len(set(names)) < len(names):
        names = list(map(visible_text, paths))
    found = []
    for name, path in zip(names, paths, strict=True):
        if name in dict(found):
            raise UserError(f"{flag}={path}: is given twice")
        with explained(path, f"{flag}="):
            found.append((name, read_bytes(path)))
        if not found[-1][1]:
            raise UserError(f"{flag}={path}: empty, nothing to inspect")
    return found


def _in_folder(folder: str) -> list[str]:
    with explained(folder, "--folder="):
        paths = files_for(folder).list(as_path(folder) / f"*{_ENDING}")
    if not paths:
        raise UserError(f"--folder={folder}: no names in it end in {_ENDING}: give a folder with a file a text")
    return paths


def _file_name(path: str, flag: str) -> str:
    name = Path(path).name
    return visible_text(name.removesuffix(_ENDING) if flag == "--folder" else name)


def _check_ranges(args: argparse.Namespace, models: "Sequence[Model]") -> None:
    """A page has one legend, and so one range of gate values."""
    ranges = sorted({model.config.gate.scale for model in models if model.config.gate is not None})
    if args.html and len(ranges) > 1:
        shown = ", ".join(f"{k:g}..0" for k in ranges)
        raise UserError(f"--html={args.html}: the models' gate values have the ranges {shown}: write a page of each")


def _inspect(args: argparse.Namespace, models: "Sequence[Model]", texts: dict[str, bytes]) -> "list[InspectedModel]":
    from mrt5_jax.evaluation.model_dirs import threshold_under
    from mrt5_jax.report.inspected import InspectedModel

    found = []
    for name, source, model in zip(_model_names(args, models), (args.model_dir, args.against), models, strict=False):
        deletions = model.deletions(list(texts.values()))
        attention = dict(zip(texts, _attention(model, deletions), strict=True)) if args.attention_to_deleted else {}
        threshold = threshold_under(model.config, "hard")
        by_text = dict(zip(texts, deletions, strict=True))
        found.append(InspectedModel(name, source, model.step, threshold, by_text, attention))
    return found


def _attention(model: "Model", deletions: "Deletions") -> list[Any]:
    """Of each text, what kept positions attend to in each window."""
    from mrt5_jax.evaluation.attention_to_deleted import attention_in_windows, make_attention_inspector
    from mrt5_jax.model.encoder_decoder import MrT5

    inspector = make_attention_inspector(MrT5(model.config, model.execution))
    return [attention_in_windows(inspector, model.params, found.windows, model.input_length) for found in deletions]


def _model_names(args: argparse.Namespace, models: "Sequence[Model]") -> list[str]:
    """What the models are called: by their last part or, where that is the same, as they were given."""
    given = [args.model_dir, args.against][: len(models)]
    short = [Path(name).name or Path(name).resolve().name for name in given]
    names = short if len(set(short)) == len(models) else given
    called = [f"{visible_text(name)}, step {model.step}" for name, model in zip(names, models, strict=True)]
    if len(set(called)) < len(models) and args.threshold is not None:
        called[0] += f", threshold {args.threshold:g}"
    return called


def _window_lines(model: "Model", one: "InspectedModel", found: "Sequence[InspectedModel]") -> list[str]:
    """Says which texts are longer than a model's input."""
    of_model = "the model's" if len(found) == 1 else f"that of {one.name}"
    cut = {text: len(of_text.windows) for text, of_text in one.texts.items() if len(of_text.windows) > 1}
    windows = f"windows of at most {model.input_length - 1:,} bytes, each seen alone."
    if len(cut) > _NAMED:
        return [f"{len(cut):,} texts are longer than {of_model} input: cut into {windows}"]
    return [
        f"{'The text' if len(one.texts) == 1 else text} is longer than {of_model} input: cut into {count:,} {windows}"
        for text, count in cut.items()
    ]


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


def _grid(table: "CountTable") -> Any:
    """A table as terminals show it."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    title = escape(table.title) or None
    grid = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0)
    for number, heading in enumerate(table.headings):
        grid.add_column(heading, justify="right" if number else "left", no_wrap=number == 0)
    for row in table.rows:
        grid.add_row(*map(escape, row))
    return grid


def _write(args: argparse.Namespace, found: "Sequence[InspectedModel]", lines: Sequence[str]) -> list[str]:
    """Writes what was asked for; returns the paths."""
    from mrt5_jax.report.inspected import inspection_lines, inspection_page
    from mrt5_jax.runs.model_dir import write_atomically

    texts = list(found[0].texts)
    what = texts[0] if len(texts) == 1 else f"{len(texts):,} texts"
    if len(found) == 1:
        introduction = f"What the gate of {visible_text(args.model_dir)} deletes at step {found[0].step}."
    else:
        introduction = f"What the gates of {' and of '.join(one.name for one in found)} delete."
    contents = {
        "html": lambda: inspection_page(f"What is deleted of {what}", " ".join([introduction, *lines]), found),
        "json": lambda: inspection_lines(found),
    }
    written = []
    for flag, content in contents.items():
        if path := getattr(args, flag):
            with explained(path, f"--{flag}="):
                write_atomically(path, content())
            written.append(path)
    return written
