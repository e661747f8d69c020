"""One evaluation by several processes, each on its own devices.

Process i of n evaluates the batches i, i + n, i + 2n, ... of those that one process would evaluate, and writes a share:

    records.jsonl-0000i-of-0000n         its records
    records.jsonl-0000i-of-0000n.json    what they were made from, and what else an `Evaluation` has

The first process puts the records of all shares in the order of the batches. Shares stay: where an evaluation is begun
again, those that were finished are read, as long as model, settings and data are the same.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from mrt5_jax.config import Deletion, RunConfig
from mrt5_jax.data.batches import EvalBatch
from mrt5_jax.data.mixing import Shard
from mrt5_jax.data.task_names import key_of
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.batches_digest import BatchesDigest, batches_of, digest_of
from mrt5_jax.evaluation.costs import Costs, costs_to_json, read_costs
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.model_dirs import RECORDS, LoadedModel, body_of, evaluate_task
from mrt5_jax.evaluation.records import RECORD_SCHEMA, Record, read_records, to_json_lines
from mrt5_jax.inference.shards import WHOLE, shard_file, shard_name
from mrt5_jax.parallel.processes import in_every_process, in_first_process
from mrt5_jax.runs.files import FilePath, explained, read_bytes
from mrt5_jax.runs.model_dir import write_atomically


def evaluate_together(
    loaded: LoadedModel,
    run: RunConfig,
    task: str,
    split: str,
    deletions: Sequence[Deletion],
    folder: FilePath,
    shard: Shard,
    watch: Callable[[Iterable[EvalBatch]], Iterable[EvalBatch]] = iter,
    rounds: int = 1,
) -> Evaluation:
    """Evaluates a task's split as `evaluate_task` does, by all processes that call this together.

    Args:
        folder: where the shares lie; all processes see it.
        shard: the share of this process.
        watch: sees all batches go by, those of other processes too.
        rounds: as of `evaluate_task`.

    Returns:
        in the first process the whole evaluation, in which the times of batches are its own; in the others their own
        shares.

    Raises:
        UserError: see `evaluate_task`, in any process; or the first one does not see the shares of the others.
    """
    if shard == WHOLE:
        return evaluate_task(loaded, run, task, split, deletions, watch, rounds)
    weights = loaded.name, loaded.step, loaded.digest
    settings = run.model, run.evaluation, run.execution, task, split, tuple(deletions), rounds
    key = key_of((RECORD_SCHEMA, weights, settings))

    def own_batches(batches: Iterable[EvalBatch]) -> Iterator[EvalBatch]:
        return islice(batches, shard.index, None, shard.count)

    def own_share() -> Evaluation:
        path = shard_file(folder / RECORDS, shard)
        share = _read_share(path, key)
        if share is not None and share[1] == digest_of(own_batches(batches_of(run, task, split))):
            return share[0]
        passed = BatchesDigest()
        evaluation = evaluate_task(
            loaded, run, task, split, deletions, lambda batches: passed.of_each(own_batches(watch(batches))), rounds
        )
        _write_share(path, key, evaluation, passed.so_far())
        return evaluation

    evaluation = in_every_process(own_share)
    whole: list[Evaluation] = []
    in_first_process(lambda: whole.append(_put_together(folder, shard.count, key, run, len(deletions))))
    return whole[0] if whole else evaluation


def _write_share(path: FilePath, key: str, evaluation: Evaluation, batches: str) -> None:
    """Writes a share, and last what tells that it is whole; see `_read_share`."""
    records = to_json_lines(evaluation.records)
    made = {
        "made_from": key,
        "batches": batches,
        "records": hashlib.sha256(records.encode()).hexdigest(),
        "milliseconds_per_batch": evaluation.milliseconds,
        "num_cut": {"inputs": evaluation.num_inputs_cut, "targets": evaluation.num_targets_cut},
        **costs_to_json(evaluation.costs),
    }
    with explained(path):
        write_atomically(path, records)
        write_atomically(_description(path), json.dumps(made, indent=2, allow_nan=False) + "\n")


def _read_share(path: FilePath, key: str) -> tuple[Evaluation, str] | None:
    """A share, and the digest of its batches; None where none was finished, or one of another key."""
    with explained(path):
        try:
            made, records = json.loads(read_bytes(_description(path))), read_bytes(path)
        except (FileNotFoundError, ValueError):
            return None
    if made.get("made_from") != key or made.get("records") != hashlib.sha256(records).hexdigest():
        return None
    cut, costs = made["num_cut"], read_costs(_description(path)) or Costs()
    times = made["milliseconds_per_batch"]
    return Evaluation(read_records(path), times, cut["inputs"], cut["targets"], costs=costs), made["batches"]


def _put_together(folder: FilePath, count: int, key: str, run: RunConfig, num_deletions: int) -> Evaluation:
    """The evaluation of `count` shares."""
    shards = [Shard(index, count) for index in range(count)]
    found = [_read_share(shard_file(folder / RECORDS, shard), key) for shard in shards]
    if missing := [shard_name(shard) for shard, share in zip(shards, found, strict=True) if share is None]:
        raise UserError(
            f"{folder}: the records of {', '.join(missing)} are not there: MODEL_DIR has to lie in a folder that all "
            "processes see, or in a bucket"
        )
    shares = [share[0] for share in found if share is not None]
    return shares[0]._replace(
        records=_in_order_of_batches([share.records for share in shares], run.data.eval_batch_size * num_deletions),
        num_inputs_cut=sum(share.num_inputs_cut for share in shares),
        num_targets_cut=sum(share.num_targets_cut for share in shares),
        body=body_of(run),
        costs=shares[0].costs._replace(times=tuple(time for share in shares for time in share.costs.times)),
    )


def _in_order_of_batches(shares: Sequence[Sequence[Record]], num_records: int) -> list[Record]:
    """The records of all shares; a batch has `num_records`, and the last one may have less."""
    records: list[Record] = []
    for start in range(0, max(map(len, shares)), num_records):
        for share in shares:
            records += share[start : start + num_records]
    return records


def _description(path: FilePath) -> FilePath:
    return path.with_name(f"{path.name}.json")
