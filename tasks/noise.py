"""How a model's answers change with noise on its inputs: copies of a task, one for each kind of noise and each rate.

    EVAL_TASKS = (@noise.noise_suite(),)
    noise.noise_suite.task = %TRAIN_TASK
    noise.noise_suite.rates = (0.05, 0.1, 0.2)

The task may be any whose inputs are text. `copied_text` makes one of the user's own files: inputs and targets are the
text, so that with noise the targets are what the inputs were.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from mrt5_jax.data import answers, corpora, noise_kinds, noising, task_names
from mrt5_jax.data.registry import add_mixture, add_task, tasks_of
from mrt5_jax.data.task_specs import TaskSpec, ended_rows
from mrt5_jax.errors import UserError

_SHORTEST = 8
"""Inputs of text, in ids."""


def noise_suite(
    task: str,
    kinds: str | Sequence[str] = tuple(noise_kinds.NOISES),
    rates: Sequence[float] = (0.05, 0.1, 0.2),
    seed: int = 0,
) -> str:
    """Registers a task with noise on its inputs, once for each set of arguments, and returns a mixture's name.

    The mixture has the task as it is, and TASK.KIND_RATE for each kind and rate; so evaluation has a row for each. Its
    targets, metrics, languages and splits are the task's.

    Args:
        task: the name of a task whose inputs are text, or ids of bytes.
        kinds: of noise, see `noise_kinds`. Letters are exchanged with the next one (swap), left out (drop), written in
            the other case (case) or without their diacritics (diacritics), or mistyped on a QWERTY keyboard (keyboard,
            which changes a to z and A to Z alone: text in other scripts stays); bytes come twice (repeat_bytes).
        rates: how likely each place is to be changed, 0 to 1.
        seed: of the noise. In evaluation it follows from this seed and the example alone; in training every epoch has
            another.

    Raises:
        UserError: a mixture or an unknown task, one that makes its rows itself, an unknown kind, a rate that is none.
    """
    base = _single_task(task)
    kinds = [kinds] if isinstance(kinds, str) else kinds
    _check(kinds, rates, seed)
    names = [base.name]
    for kind in kinds:
        for rate in map(float, rates):
            key = task_names.key_of((base.name, kind, rate, seed))
            label = f"{task_names.label_of(base.name)}.{kind}_{np.format_float_positional(rate, trim='-')}"
            noisy = functools.partial(
                noise_kinds.noisy_example, preprocess=base.preprocess, kind=kind, rate=rate, seed=seed
            )
            name = task_names.name_with_key(label, key)
            names.append(add_task(dataclasses.replace(base, name=name, preprocess=noisy)))
    suite = f"{task_names.label_of(base.name)}.noise"
    return add_mixture(task_names.name_with_key(suite, task_names.key_of(names)), dict.fromkeys(names, 1.0))


def copied_text(files: str | Sequence[str], input_length: int = 64, field: str = "text") -> str:
    """Registers text that is to be copied, once for each set of arguments, and returns the task's name.

    Files are read as by `span_corruption.text_task`, one language a file name, and cut in chunks, which are the inputs
    and the targets. There is one split, test.

    Args:
        files: globs.
        input_length: in ids. Chunks are two thirds as long, since doubled bytes make inputs longer.
        field: of JSON lines, TFRecords and Parquet files, that holds the text.

    Raises:
        UserError: no usable file, or inputs that are too short.
    """
    if input_length < _SHORTEST:
        raise UserError(f"noise.copied_text.input_length = {input_length}: should be at least {_SHORTEST}")
    raw = input_length * 2 // 3
    splits = {"test": corpora.open_regions(files, field)}
    languages = corpora.languages_of(splits)
    contents = [(region.language, region.stream.identity) for region in splits["test"]]
    label = f"copied_text.{task_names.languages_label(languages)}"
    name = task_names.name_with_key(label, task_names.key_of((contents, raw)))
    copy = functools.partial(noising.with_noise, noise=0.0)
    source = corpora.chunk_source(splits, raw)
    return add_task(TaskSpec(name, source, preprocess=copy, metrics=(answers.accuracy,), languages=languages))


def _single_task(task: str) -> TaskSpec:
    specs = tasks_of(task)
    label = task_names.label_of(task)
    if len(specs) != 1:
        names = ", ".join(task_names.label_of(spec.name) for spec in specs[:3])
        more = f" and {len(specs) - 3} more" if len(specs) > 3 else ""
        raise UserError(f"noise.noise_suite.task = '{label}': a mixture of {names}{more}: name one of them")
    if specs[0].make_rows is not ended_rows:
        raise UserError(
            f"noise.noise_suite.task = '{label}': makes its rows itself, as tasks of seqio's do: give a TaskSpec whose "
            "preprocess gives text (docs/tasks.md)"
        )
    return specs[0]


def _check(kinds: Sequence[str], rates: Sequence[float], seed: int) -> None:
    if not kinds or not rates:
        raise UserError(f"noise.noise_suite.{'rates' if kinds else 'kinds'}: name at least one")
    for kind in kinds:
        if kind not in noise_kinds.NOISES:
            there = ", ".join(noise_kinds.NOISES)
            raise UserError(f"noise.noise_suite.kinds: no noise is called '{kind}': there are {there}")
    for rate in rates:
        if not 0 <= rate <= 1:
            raise UserError(f"noise.noise_suite.rates: {rate:g} should be a share, from 0 to 1")
    if seed < 0:
        raise UserError(f"noise.noise_suite.seed = {seed}: should be at least 0")
