"""Tasks and mixtures by name: those made here, and those that a user has registered with seqio.

seqio is never imported to look for a name: who registered a task with it has imported it.
"""

import difflib
import sys
from collections.abc import Mapping, Sequence

from mrt5_jax.data.source_files import count_documents, name_files
from mrt5_jax.data.task_names import label_of
from mrt5_jax.data.task_specs import Mixture, Rate, TaskSpec
from mrt5_jax.data.tensorflow_on_demand import import_optional
from mrt5_jax.errors import UserError

_tasks: dict[str, TaskSpec] = {}
_mixtures: dict[str, Mixture] = {}


def add_task(spec: TaskSpec) -> str:
    """Registers a task, once for each name, and returns the name; with seqio as well, where it is in use."""
    _tasks.setdefault(spec.name, spec)
    if _seqio_is_in_use():
        from mrt5_jax.data.seqio_tasks import register

        register(_tasks[spec.name])
    return spec.name


def add_mixture(name: str, rates: Mapping[str, Rate]) -> str:
    """Registers a mixture of registered tasks, once for each name, and returns the name.

    Raises:
        UserError: there are no tasks.
    """
    if not rates:
        raise UserError(f"the mixture {label_of(name)} has no tasks: name at least one")
    if name not in _mixtures:
        _mixtures[name] = Mixture(name, tuple(_tasks[own] for own in sorted(rates)), rates)
    if _seqio_is_in_use():
        from mrt5_jax.data.seqio_tasks import register_mixture

        register_mixture(_mixtures[name])
    return name


def registered() -> Mapping[str, TaskSpec | Mixture]:
    """Returns all that are registered here, by name."""
    return {**_tasks, **_mixtures}


def known_tasks() -> list[str]:
    """Returns the names of all tasks and mixtures, those registered with seqio included."""
    return list(dict.fromkeys([*registered(), *_names_in_seqio()]))


def find_task(name: str) -> TaskSpec | Mixture:
    """Returns the task or mixture of that name.

    Raises:
        UserError: there is none; the nearest names are offered. Or it is one of seqio's that cannot be used here.
    """
    if name in _tasks or name in _mixtures:
        return registered()[name]
    if name in _names_in_seqio():
        from mrt5_jax.data.seqio_tasks import adapted

        return adapted(name, _tasks)
    known = known_tasks()
    labelled = _labelled(name, known)
    if len(labelled) == 1:
        return find_task(labelled[0])
    near = labelled or difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    offer = f"did you mean {' or '.join(near)}?" if near else "is the module that registers it imported?"
    raise UserError(f"no task or mixture is called '{name}': {offer}")


def is_known(name: str) -> bool:
    """Says whether `find_task` finds it."""
    known = known_tasks()
    return name in known or len(_labelled(name, known)) == 1


def tasks_of(name: str) -> Sequence[TaskSpec]:
    """Returns the task of that name, or the tasks of the mixture; see `find_task`."""
    found = find_task(name)
    return found.tasks if isinstance(found, Mixture) else (found,)


def task_languages(name: str) -> tuple[str, ...]:
    """Returns the languages of a task or mixture, sorted; see `find_task`."""
    return tuple(sorted({language for task in tasks_of(name) for language in task.languages}))


def find_split(name: str, split: str) -> list[TaskSpec]:
    """Returns the tasks behind a name that have the split.

    Raises:
        UserError: an unknown task, a mixture of no tasks, no such split, or one that is not there to be read.
    """
    tasks = tasks_of(name)
    if not tasks:
        raise UserError(f"the mixture '{label_of(name)}' has no tasks: name at least one")
    having = [task for task in tasks if split in task.splits]
    if not having:
        splits = sorted({have for task in tasks for have in task.splits})
        files = [file for task in tasks for file in task.files]
        if files and split == "validation":
            raise UserError(
                f"{name_files(files)}: too little text to hold a part out for validation ({count_documents(files)}): "
                "give more text, or files for validation"
            )
        there = f"only {', '.join(splits)}" if splits else "nor any other"
        raise UserError(f"task '{label_of(name)}' has no {split} split, {there}")
    for task in having:
        task.source.check(split)
    return having


def register_all_with_seqio() -> None:
    """Registers every task and mixture with seqio, for users who make mixtures of them there.

    Raises:
        UserError: seqio is not installed.
    """
    import_optional("seqio", "registering tasks with it")  # first: within gin files that alone registers them
    from mrt5_jax.data.seqio_tasks import register, register_mixture

    for task in _tasks.values():
        register(task)
    for mixture in _mixtures.values():
        register_mixture(mixture)


def _labelled(label: str, names: Sequence[str]) -> list[str]:
    """The names that people read as `label`."""
    return [name for name in names if label_of(name) == label]


def _seqio_is_in_use() -> bool:
    return sys.modules.get("seqio") is not None


def _names_in_seqio() -> list[str]:
    """Without importing it."""
    if not _seqio_is_in_use():
        return []
    seqio = sys.modules["seqio"]
    return [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
