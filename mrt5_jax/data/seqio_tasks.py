"""seqio's tasks as tasks here, and tasks here as seqio's. Whoever imports this module has asked for seqio.

A user's own task or mixture, registered with seqio, is adapted: its preprocessors run as seqio runs them, its
postprocessing and metrics are kept, and an offline cache of it is read where there is one. Its vocabulary has to be
ByT5's, since a model here knows bytes alone.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mrt5_jax.data.sources import Example, Order, Positions, RowLengths, every
from mrt5_jax.data.task_specs import INPUTS, TARGETS, Mixture, TaskSpec, cut_feature
from mrt5_jax.data.tensorflow_on_demand import import_optional, import_tensorflow
from mrt5_jax.data.text_files import SourceFile
from mrt5_jax.data.vocabulary import VOCAB_SIZE
from mrt5_jax.errors import UserError

tf: Any = import_tensorflow("a seqio task")
seqio: Any = import_optional("seqio", "a seqio task")


def adapted(name: str, known: Mapping[str, TaskSpec]) -> TaskSpec | Mixture:
    """Returns seqio's task or mixture of that name.

    Args:
        known: tasks that are not seqio's own, by name; a mixture's are taken from there.

    Raises:
        UserError: a task of another vocabulary than ByT5's, without `inputs` and `targets`, or without its cache.
    """
    found = seqio.get_mixture_or_task(name)
    if isinstance(found, seqio.Task):
        return _adapted_task(found)
    tasks = tuple(known.get(task.name) or _adapted_task(task) for task in found.tasks)
    return Mixture(name, tasks, {task.name: float(found.get_rate(task)) for task in found.tasks})


@functools.cache
def _adapted_task(task: Any) -> TaskSpec:
    _check(task)
    return TaskSpec(
        task.name,
        SeqioSource(task),
        postprocess=task.postprocess_fn,
        metrics=tuple(task.metric_fns),
        make_rows=_as_seqio_gives_them,
    )


def _check(task: Any) -> None:
    for key in (INPUTS, TARGETS):
        if key not in task.output_features:
            raise UserError(f"seqio task '{task.name}' has no feature '{key}': it takes inputs and targets")
        vocabulary = task.output_features[key].vocabulary
        if not isinstance(vocabulary, seqio.ByteVocabulary) or vocabulary.vocab_size > VOCAB_SIZE:
            raise UserError(
                f"seqio task '{task.name}': its {key} are in {type(vocabulary).__name__} of {vocabulary.vocab_size} "
                "ids, not in ByT5's bytes: give its output_features a seqio.ByteVocabulary"
            )
    if task.requires_caching and not task.cache_dir:
        raise UserError(
            f"seqio task '{task.name}' takes an offline cache: make it (seqio_cache_tasks), and add its folder "
            "(seqio.add_global_cache_dirs)"
        )


def _as_seqio_gives_them(example: Example, lengths: RowLengths | None) -> Example:
    """Rows that end as their task ends them; too long ones are cut."""
    if lengths is None:
        return example
    return example | {key: np.asarray(example[key], np.int32)[: lengths[key]] for key in (INPUTS, TARGETS)}


class SeqioSource:
    """A seqio task read by seqio. Its transformations may drop or add examples, so the way to a position leads past
    those before it.
    """

    def __init__(self, task: Any):
        self._task = task
        self._cached = bool(task.supports_caching and task.cache_dir)
        self.splits: Sequence[str] = tuple(task.splits)
        self.files: Sequence[SourceFile] = ()

    def check(self, split: str) -> None:
        """See `ExampleSource`; builds what reads the split, which finds missing files."""
        try:
            self._dataset(split, None, shuffle=False, seed=0, num_epochs=1)
        except Exception as error:  # what sources and preprocessors of users raise, and seqio's own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"seqio task '{self._task.name}': its {split} split cannot be read: {reason}") from error

    def num_examples(self, split: str) -> int | None:
        """See `ExampleSource`; before the task's transformations."""
        return self._task.num_input_examples(split)

    def read(self, split: str, positions: Positions, order: Order, lengths: RowLengths | None) -> Iterator[Example]:
        """See `ExampleSource`; without INDEX_FEATURE and SEED_FEATURE, as seqio's steps draw for themselves."""
        has_order = self._task.shuffle_buffer_size is None and not self._task.source.performs_internal_shuffling
        if order.shuffle and has_order:
            raise UserError(
                f"seqio task '{self._task.name}' cannot be shuffled: give it a shuffle_buffer_size, or set "
                "config.DataConfig.shuffle to False"
            )
        block = next(positions)
        first = int(block[0])
        dataset = self._dataset(split, lengths, shuffle=order.shuffle, seed=order.seed, num_epochs=order.num_epochs)
        examples = enumerate(dataset.skip(first).as_numpy_iterator(), start=first)
        while True:
            for wanted in block.tolist():
                found = next((example for position, example in examples if position == wanted), None)
                if found is None:
                    return
                yield found
            block = next(positions)

    def read_once(self, split: str, lengths: RowLengths | None) -> Iterator[Example]:
        """See `ExampleSource`; in the order of the task's source."""
        dataset = self._dataset(split, lengths, shuffle=False, seed=0, num_epochs=1)
        return iter(dataset.as_numpy_iterator())

    def _dataset(self, split: str, lengths: RowLengths | None, **order: Any) -> Any:
        return self._task.get_dataset(lengths, split, use_cached=self._cached, **order)


def register(spec: TaskSpec) -> None:
    """Registers a task with seqio under its name, once."""
    if spec.name in seqio.TaskRegistry.names():
        return
    seqio.TaskRegistry.add(
        spec.name,
        source=_SpecSource(spec),
        preprocessors=[_cut_rows],
        output_features=byte_features(),
        postprocess_fn=spec.postprocess,
        metric_fns=list(spec.metrics),
        shuffle_buffer_size=None,
    )


def register_mixture(mixture: Mixture) -> None:
    """Registers a mixture and its tasks with seqio, once."""
    for task in mixture.tasks:
        register(task)
    if mixture.name not in seqio.MixtureRegistry.names():
        rates = [(task.name, mixture.rate(task)) for task in mixture.tasks]
        seqio.MixtureRegistry.add(mixture.name, rates)


def byte_features() -> dict[str, Any]:
    """Returns `inputs` and `targets` as seqio's features: in ByT5's vocabulary, ended by EOS."""
    vocabulary = seqio.ByteVocabulary(extra_ids=0)
    return {name: seqio.Feature(vocabulary, add_eos=True) for name in (INPUTS, TARGETS)}


class _SpecSource(seqio.DataSource):
    """Preprocessed examples of a task here, an epoch of them; the order and the draws are those of a run."""

    def __init__(self, spec: TaskSpec):
        super().__init__(splits=tuple(spec.splits), performs_internal_shuffling=True)
        self._spec = spec

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> list[str]:
        return [split]

    def num_input_examples(self, split: str) -> int | None:
        return self._spec.source.num_examples(split)

    def get_dataset(
        self, split: str = "train", shuffle: bool = True, seed: int | None = None, shard_info: Any = None, **unused: Any
    ) -> Any:
        """Returns one epoch. Repeating it repeats the same draws."""
        del unused  # seqio's interface hands over what only other kinds of sources use
        shard = shard_info or seqio.ShardInfo(index=0, num_shards=1)
        order = Order(seed or 0, shuffle, num_epochs=1)

        def examples() -> Iterator[dict[str, Any]]:
            positions = every(shard.num_shards, shard.index)
            return (_features(example) for example in self._spec.read(split, positions, order))

        signature = {key: _tensor_spec(value) for key, value in next(examples()).items()}
        return tf.data.Dataset.from_generator(examples, output_signature=signature)


def _features(example: Example) -> dict[str, Any]:
    """What can be a tensor, text as bytes."""
    found = {}
    for key, value in example.items():
        if isinstance(value, str):
            value = value.encode(errors="surrogateescape")
        elif isinstance(value, list | tuple):
            value = np.array([one.encode() if isinstance(one, str) else one for one in value], object)
        if not isinstance(value, Mapping):
            found[key] = value
    return found


def _tensor_spec(value: Any) -> Any:
    if isinstance(value, bytes) or (isinstance(value, np.ndarray) and value.dtype == object):
        return tf.TensorSpec([None] if isinstance(value, np.ndarray) else [], tf.string)
    array = np.asarray(value)
    return tf.TensorSpec([None] * array.ndim, array.dtype)


def _cut_rows(dataset: Any, sequence_length: Mapping[str, int] | None = None) -> Any:
    """A task's last transformation: rows that are too long are cut, and still end with their EOS."""
    if sequence_length is None:
        return dataset

    @tf.autograph.experimental.do_not_convert
    def cut(example: dict[str, Any]) -> dict[str, Any]:
        rows = dict(example)
        for key in (INPUTS, TARGETS):
            ids, length = example[key], sequence_length[key]
            rows[key] = tf.concat([ids[:-1][: length - 1], ids[-1:]], axis=0)
            is_long = tf.size(ids) > length
            rows[cut_feature(key)] = is_long
        return rows

    return dataset.map(cut, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
