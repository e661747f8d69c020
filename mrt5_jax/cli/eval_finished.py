"""Teacher-forced results of `mrt5 eval`: read where they are finished, else made."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrt5_jax.cli.eval_sweeps import SweepPoint
    from mrt5_jax.data.batches import EvalBatch
    from mrt5_jax.data.mixing import Shard
    from mrt5_jax.evaluation.evaluate import Evaluation
    from mrt5_jax.runs.files import FilePath


def evaluated(
    point: "SweepPoint",
    data: tuple[str, str],
    folder: "FilePath",
    settings: dict[str, Any],
    shard: "Shard",
    watch: "Callable[[Iterable[EvalBatch]], Iterable[EvalBatch]]",
    rounds: int,
    console: Any,
) -> "tuple[Evaluation, str]":
    """Returns what a model makes of a task's targets, and the digest of the batches where one process reads them all.

    Several processes know for themselves which of their shares are finished; see `shares`.

    Args:
        point: the model, and what it is evaluated under.
        data: the task and its split.
        folder: of the evaluation.
        settings: by which what is finished is known.
        shard: this process's share of the batches.
        watch: sees the batches go by.
        rounds: how often all deletions run on the same batches.
        console: where it is said that nothing is made again.
    """
    from mrt5_jax.evaluation.batches_digest import BatchesDigest, batches_of, digest_of
    from mrt5_jax.evaluation.finished import finished_evaluation
    from mrt5_jax.evaluation.model_dirs import body_of
    from mrt5_jax.evaluation.shares import evaluate_together
    from mrt5_jax.inference.shards import WHOLE

    def make(seen: "Callable[[Iterable[EvalBatch]], Iterable[EvalBatch]]") -> "Evaluation":
        return evaluate_together(point.loaded, point.run, *data, point.deletions, folder, shard, seen, rounds)

    if shard != WHOLE:
        return make(watch), ""
    now: list[str] = []

    def digest_now() -> str:
        now.append(digest_of(batches_of(point.run, *data)))
        return now[0]

    finished = finished_evaluation(folder, settings, body_of(point.run), digest_now)
    if finished is not None:
        line = f"evaluated and clocked already: {folder} (remove it, and it is made again)"
        console.print(line, soft_wrap=True, highlight=False, markup=False)
        return finished, now[0]
    passed = BatchesDigest()

    def noted(batches: "Iterable[EvalBatch]") -> "Iterator[EvalBatch]":
        return passed.of_each(watch(batches))

    return make(noted), passed.so_far()
