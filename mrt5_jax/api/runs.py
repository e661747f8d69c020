"""Training and evaluating from Python."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import get_args

from mrt5_jax.api.given import check_counts
from mrt5_jax.api.model import Model
from mrt5_jax.compilation_cache import keep_programs_from_now_on
from mrt5_jax.config import DataConfig, Deletion, RunConfig, TrainingConfig
from mrt5_jax.data.batches import EvalBatch
from mrt5_jax.data.registry import add_task
from mrt5_jax.data.task_names import label_of
from mrt5_jax.data.task_specs import TaskSpec
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.evaluate import Evaluation, deletions_for
from mrt5_jax.evaluation.model_dirs import LoadedModel, evaluate_task, split_to_evaluate
from mrt5_jax.inference.run_defaults import capacity_of, default_deletion, execution_of, limits_of
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.mesh import make_mesh
from mrt5_jax.parallel.shardings import spread_params
from mrt5_jax.runs.files import as_path, given_path
from mrt5_jax.runs.run_files import read_run
from mrt5_jax.selection.deletions import DELETIONS
from mrt5_jax.selection.selectors import check_deletion
from mrt5_jax.tasks import import_all  # pyright: ignore[reportMissingImports] - setuptools puts it there
from mrt5_jax.training import loop
from mrt5_jax.training.hooks import Hook
from mrt5_jax.training.writers import Writer
from mrt5_jax.validation import validate

EVAL_BATCH_SIZE = 16
"""Rows at once of a model that comes without a run."""


def train(
    run: RunConfig,
    *,
    hooks: Sequence[Hook] = (),
    writers: Sequence[Writer] | None = None,
    config_text: str = "",
    accepted: Callable[[], None] = lambda: None,
    start_over: bool = False,
) -> Model:
    """Trains what a run describes, or goes on where its MODEL_DIR stands.

    Args:
        run: everything that training depends on.
        hooks: what happens after steps, besides the run's own reports, evaluations and checkpoints; see
            `training.hooks.Hook`, and `training.hooks.Every` for functions.
        writers: what takes the numbers beside MODEL_DIR/metrics.jsonl; None: TensorBoard's events, and progress on the
            terminal.
        config_text: gin text that resolves to `run`, for MODEL_DIR/config.gin, which `mrt5 eval` reads.
        accepted: called once nothing is left that may refuse the run.
        start_over: where no checkpoint is whole any more, set aside what is left and begin at step 0.

    Returns:
        the trained `Model`.

    Raises:
        UserError: the run makes no sense, or the devices, the data or what lies in MODEL_DIR do not fit it; or training
            fails, its loss not being finite.
        Preempted: the run was asked to stop, and has saved its state.
        HookError: one of `hooks` has raised; the run has saved its state first.

    Examples:
        >>> from mrt5_jax.tasks.diagnostics import diagnostic_task
        >>> from mrt5_jax.config import DataConfig, RunConfig, TrainingConfig
        >>> task = diagnostic_task("vowel_removal", length=16)
        >>> data = DataConfig(task, (task,), input_length=16, target_length=16, batch_size=8, eval_batch_size=8)
        >>> size = mrt5_jax.presets.mrt5("tiny", emb_dim=16, mlp_dim=16)
        >>> run = RunConfig(folder, size, data, TrainingConfig(num_steps=2, eval_batches=1))
        >>> mrt5_jax.train(run, writers=[]).step
        2
    """
    if not isinstance(run, RunConfig):
        raise UserError(f"run is of type {type(run).__name__}: give a config.RunConfig")
    keep_programs_from_now_on()
    import_all()
    validate(run)
    state = loop.train(run, config_text, hooks=hooks, writers=writers, accepted=accepted, start_over=start_over)
    model_dir = given_path(run.model_dir)
    saved = read_run(model_dir)
    assert saved is not None, "a run that has been made has said so"
    limits = limits_of(saved, saved.model.vocab_size)
    return Model(
        saved.model,
        state.params,
        default_deletion(saved.model.gate),
        model_dir,
        int(state.step),
        saved,
        execution_of(saved),
        capacity_of(saved),
        limits.input_length,
        limits.target_length,
        config_text,
    )


def evaluate(
    model: Model,
    task: str | TaskSpec,
    *,
    split: str | None = None,
    deletions: Sequence[Deletion] = (),
    num_examples: int | None = None,
    watch: Callable[[Iterable[EvalBatch]], Iterable[EvalBatch]] = iter,
) -> Evaluation:
    """Evaluates a model on a task, teacher-forced, under each deletion; writes nothing.

    Args:
        model: as `mrt5_jax.load` returns it.
        task: the name of a registered task or mixture, or a `TaskSpec`.
        split: None: "test", or "validation" where there is no test split.
        deletions: any of "none", "soft", "hard", "random"; none given: those of the model's run, or soft and hard.
        num_examples: of the task; None: all.
        watch: sees the batches go by, to show progress.

    Returns:
        an `Evaluation`: a record for each example and deletion, times, and a summary.

    Raises:
        UserError: an unknown task or split, a task without examples, a deletion that the model cannot run under, or
            numbers that are not finite.

    Examples:
        >>> found = mrt5_jax.evaluate(model, "diagnostics.copy", num_examples=4)
        >>> sorted(found.summary())
        ['hard', 'soft']
    """
    check_counts(num_examples=num_examples)
    if not isinstance(task, str | TaskSpec):
        raise UserError(f"task={task!r}: give the name of a task, or a TaskSpec")
    import_all()
    name = add_task(task) if isinstance(task, TaskSpec) else task
    split = split_to_evaluate(name, split)
    for deletion in deletions:
        if deletion not in get_args(Deletion):
            raise UserError(f"deletions: {deletion!r} should be {' or '.join(map(repr, get_args(Deletion)))}")
        if model.config.gate is None and DELETIONS[deletion].heeds_selector:
            raise UserError(f"deletions: {deletion!r} needs a gate, and {model.name} is a ByT5: leave it out")
        check_deletion(model.config.gate, deletion, "deletions")
    run = _run_for(model, name, num_examples)
    deletions = deletions_for(model.config, deletions or run.evaluation.deletions)
    found = evaluate_task(placed(model), run, name, split, deletions, watch)
    if not found.records:
        raise UserError(f"task {label_of(name)}: its {split} split has no examples")
    return found


def placed(model: Model) -> LoadedModel:
    """Returns the model for evaluation, its parameters spread over all devices.

    Args:
        model: as `mrt5_jax.load` returns it.
    """
    module = MrT5(model.config, model.execution)
    mesh = make_mesh(model.execution.mesh)
    params = spread_params(module, model.params, mesh)
    return LoadedModel(module, params, model.step, mesh, name=as_path(model.name).name)


def _run_for(model: Model, task: str, num_examples: int | None) -> RunConfig:
    """The model's run with its evaluations, or one made for this task."""
    run = model.run
    if run is None:
        sizes = model.input_length, model.target_length, EVAL_BATCH_SIZE, EVAL_BATCH_SIZE
        data, training = DataConfig(task, (task,), *sizes), TrainingConfig(num_steps=1)
        run = RunConfig(model.name, model.config, data, training, execution=model.execution)
    evaluation = dataclasses.replace(run.evaluation, num_examples=num_examples, capacity=model.capacity)
    dispatch, window = model.execution.inference_dispatch, model.execution.window
    execution = dataclasses.replace(run.execution, inference_dispatch=dispatch, window=window)
    return dataclasses.replace(run, model=model.config, evaluation=evaluation, execution=execution)
