"""`mrt5 data`: which tasks there are, what their examples look like, how fast they come; prepares files for runs."""

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mrt5_jax.cli.progress import watched
from mrt5_jax.config import DataConfig
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import files_for, given_path, rereadable

DEFAULT_LENGTHS = (1024, 256)
"""Of inputs and targets, where no gin file says."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the commands list, show, count, warm, unpack and make."""
    from mrt5_jax.cli import gin_setup

    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = commands.add_parser("list", help="the registered tasks and mixtures", allow_abbrev=False)
    listing.add_argument("pattern", nargs="?", default="", metavar="TEXT", help="only names with this in them")
    for name, help_text, number in (
        ("show", "examples, decoded, sentinels marked", 3),
        ("count", "bytes, lengths, examples a second", 1000),
    ):
        command = commands.add_parser(name, help=help_text, allow_abbrev=False)
        command.add_argument("task", nargs="?", metavar="TASK", help="default: the gin file's train_task")
        command.add_argument("--split", default="train")
        command.add_argument("--num_examples", type=int, default=number, metavar="N")
        gin_setup.add_arguments(command)
    warm = commands.add_parser(
        "warm", help="do now what a run does first: unpack, open every split", allow_abbrev=False
    )
    warm.add_argument("task", nargs="?", metavar="TASK", help="default: the gin file's train_task and eval_tasks")
    gin_setup.add_arguments(warm)
    unpack = commands.add_parser(
        "unpack", help="unpack compressed files now, not when a run starts", allow_abbrev=False
    )
    unpack.add_argument("files", nargs="+", metavar="GLOB")
    unpack.add_argument("--field", default="text", help="that holds the text")
    make = commands.add_parser("make", help="TSV files of a character task", allow_abbrev=False)
    make.add_argument("kind", choices=("spelling", "word_search"))
    make.add_argument(
        "--source", required=True, type=given_path, metavar="FILE", help="text, or words: WORD or WORD<TAB>HINT a line"
    )
    make.add_argument("--out", required=True, type=given_path, metavar="DIR")
    make.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Prints what was asked for."""
    from rich.console import Console

    actions = {"list": _list, "show": _show, "count": _count, "warm": _warm, "unpack": _unpack, "make": _make}
    actions[args.action](args, Console())
    return 0


def _list(args: argparse.Namespace, console: Any) -> None:
    from rich.table import Table

    from mrt5_jax.data.registry import find_task, known_tasks, tasks_of
    from mrt5_jax.data.task_specs import Mixture
    from mrt5_jax.tasks import import_all  # pyright: ignore[reportMissingImports] - setuptools puts it there

    import_all()
    found = sorted(name for name in known_tasks() if args.pattern in name)
    if not found:
        raise UserError(f"no task or mixture has '{args.pattern}' in its name")
    table = Table("name", "kind", "splits")
    for name in found:
        kind = "mixture" if isinstance(find_task(name), Mixture) else "task"
        table.add_row(name, kind, ", ".join(sorted({split for task in tasks_of(name) for split in task.splits})))
    console.print(table)


def _show(args: argparse.Namespace, console: Any) -> None:
    from mrt5_jax.data.task_names import label_of
    from mrt5_jax.data.vocabulary import decode_to_text

    for info, example in _task_and_examples(args)[1]:
        language = f", {info.language}" if info.language else ""
        console.print(f"[bold]{label_of(info.task)}[/bold] {args.split} {info.index}{language}", highlight=False)
        sentinels = _sentinels(example)
        for key in ("inputs", "targets"):
            text = decode_to_text(example[key], sentinels)
            console.print(f"{key} ({len(example[key])} ids): {text}", markup=False, highlight=False, soft_wrap=True)
        if info.answers:
            console.print(f"answers: {' | '.join(info.answers)}", markup=False, highlight=False, soft_wrap=True)


def _sentinels(example: Mapping[str, Any]) -> range:
    """Those that begin the targets of span corruption; none where the task has other targets."""
    from mrt5_jax.data.vocabulary import MAX_SENTINELS, sentinel_ids

    if "replaced_bytes" not in example:
        return range(0)
    kind = "bytes" if example["targets"][0] == sentinel_ids(1)[0] else "extra_ids"
    ids = sentinel_ids(MAX_SENTINELS[kind], kind)
    return ids[: sum(int(i) in ids for i in example["inputs"])]


def _count(args: argparse.Namespace, console: Any) -> None:
    import numpy as np
    from rich.table import Table

    lengths: dict[str, list[int]] = {"inputs": [], "targets": []}
    replaced, cut = 0, dict.fromkeys(lengths, 0)
    task, examples = _task_and_examples(args)
    first = next(examples, None)  # what it takes to open files is not counted
    if first is None:
        raise UserError(f"the {args.split} split has no examples")
    begin = time.perf_counter()
    for info, example in watched(_chained(first, examples), "examples", args.num_examples):
        replaced += int(example.get("replaced_bytes", 0))
        cut["inputs"] += info.input_cut
        cut["targets"] += info.target_cut
        for key, own in lengths.items():
            own.append(len(example[key]))
    seconds = time.perf_counter() - begin
    table = Table("ids", "least", "mean", "most", "all", "cut to fit")
    for key, own in lengths.items():
        numbers = (f"{min(own):,}", f"{np.mean(own):,.1f}", f"{max(own):,}", f"{sum(own):,}")
        table.add_row(key, *numbers, f"{cut[key]:,}")
    _describe(task, console)
    console.print(table)
    count = len(lengths["inputs"])
    rate = f"{(count - 1) / seconds:,.0f}" if count > 1 else "?"
    console.print(f"{count:,} examples, {rate} a second; {replaced:,} bytes replaced by <unk>", highlight=False)


def _chained(first: Any, rest: Iterable[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _task_and_examples(args: argparse.Namespace) -> tuple[str, Iterator[tuple[Any, Mapping[str, Any]]]]:
    if args.num_examples < 1:
        raise UserError(f"--num_examples={args.num_examples}: should be at least 1")
    data = _configured(args)
    from mrt5_jax.data.streams import eval_examples

    task = args.task or data.train_task
    return task, eval_examples(task, data, split=args.split, num_examples=args.num_examples)


def _describe(name: str, console: Any) -> None:
    """Says which of the user's files a task reads, and what was understood of them."""
    from mrt5_jax.data.registry import tasks_of
    from mrt5_jax.data.source_files import describe_files

    files = [file for task in tasks_of(name) for file in task.files]
    for line in describe_files(files):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _configured(args: argparse.Namespace) -> DataConfig:
    """The run's data, or those of the named task alone where there is no run."""
    from mrt5_jax.cli import gin_setup
    from mrt5_jax.tasks import import_all  # pyright: ignore[reportMissingImports] - setuptools puts it there

    import_all()
    if args.gin_file:
        return gin_setup.resolve_arguments(args).run.data  # resolving registers the run's tasks
    gin_setup.import_modules(args.module)
    if args.task:
        return DataConfig(args.task, (args.task,), *DEFAULT_LENGTHS, batch_size=1, eval_batch_size=1)
    raise UserError("which task? Name one (mrt5 data list has them), or give a run's --gin_file")


def _warm(args: argparse.Namespace, console: Any) -> None:
    """Reads the first example of every split, which unpacks files and finds out what is missing.

    The bytes of examples that training draws are counted, by which rows may be dealt to devices.
    """
    data = _configured(args)
    import numpy as np
    from rich.table import Table

    from mrt5_jax.data.registry import tasks_of
    from mrt5_jax.data.sources import IndexedSource
    from mrt5_jax.data.task_names import label_of

    names = [args.task] if args.task else [data.train_task, *data.eval_tasks]
    tasks = {task.name: task for name in names for task in tasks_of(name)}
    table = Table("task", "split", "examples")
    for task in watched(tasks.values(), "tasks", len(tasks)):
        for split in sorted(task.splits):
            size = task.source.num_examples(split)
            lengths = {"inputs": data.input_length, "targets": data.target_length}
            if next(task.read_once(split, lengths), None) is None:
                raise UserError(f"task {label_of(task.name)}: its {split} split has no examples")
            if split == "train" and isinstance(task.source, IndexedSource) and task.source.tells:
                task.source.told(split, np.zeros(1, np.int64))  # counts the bytes of all
            table.add_row(label_of(task.name), split, "?" if size is None else f"{size:,}")
    for name in dict.fromkeys(names):
        _describe(name, console)
    console.print(table)


def _unpack(args: argparse.Namespace, console: Any) -> None:
    from mrt5_jax.data.text_files import TextStream, find_files
    from mrt5_jax.user_cache import cache_folder

    files = find_files(args.files)
    ids = sum(TextStream([path], args.field).length for path in watched(files, "files", len(files)))
    console.print(f"{len(files)} files, {ids:,} ids; unpacked files are in {cache_folder()}", highlight=False)


def _make(args: argparse.Namespace, console: Any) -> None:
    from mrt5_jax.data import character_data

    make = character_data.spelling_pairs if args.kind == "spelling" else character_data.word_search_pairs
    lines, left_out = [], Counter[str]()
    with rereadable(args.source, "--source=") as source:
        for line in watched(_source_lines(args, source), "lines"):
            try:
                lines.append(line.decode())
            except UnicodeDecodeError:
                left_out["lines that are not UTF-8 (iconv -t UTF-8 makes them so)"] += 1
    total = len(lines) + left_out.total()
    pairs = {split: list(make(lines, split, left_out, seed=args.seed)) for split in character_data.SPLITS}
    if not pairs["train"]:
        reasons = "".join(f", {count:,} {reason}" for reason, count in left_out.most_common())
        raise UserError(f"{args.source}: too little to make a train split of ({total:,} lines{reasons}): give more")
    for split, count in character_data.write_splits(args.out, pairs).items():
        rows = f"{count:,} rows" if count else "not written, since by their hashes no row is of this split; give more"
        console.print(f"{args.out}/{split}.tsv: {rows}", highlight=False, soft_wrap=True)
    all_pairs = [pair for own in pairs.values() for pair in own]
    inputs, targets = (character_data.longest_in_ids(texts) for texts in zip(*all_pairs, strict=True))
    console.print(
        f"of {total:,} {'lines' if args.kind == 'spelling' else 'words'}; the longest input takes "
        f"INPUT_LENGTH={inputs}, the longest target TARGET_LENGTH={targets}",
        highlight=False,
        soft_wrap=True,
    )
    for reason, count in left_out.most_common():
        console.print(f"left out: {count:,} {reason}", highlight=False, soft_wrap=True)


def _source_lines(args: argparse.Namespace, source: str) -> Iterator[bytes]:
    """Lines of text; for spelling, documents of whatever training reads as well."""
    from mrt5_jax.data.documents import read_documents
    from mrt5_jax.data.formats import recognize
    from mrt5_jax.data.hashing import HashedStream
    from mrt5_jax.data.lines import read_lines

    found = recognize(source, args.source)
    if args.kind == "spelling" and found.kind != "text":
        with files_for(source).open(source) as raw, HashedStream(raw) as stream:
            yield from read_documents(Path(source), found, "text", stream)
    else:
        wanted = "a word a line: write them as plain text"
        yield from (line.data for line in read_lines(source, ("text",), wanted, args.source))
