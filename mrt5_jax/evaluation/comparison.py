"""Records grouped into what was compared: on each task, each system by language, and in total."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mrt5_jax.config import Deletion
from mrt5_jax.data.task_names import label_of
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.bootstrap import RESAMPLES
from mrt5_jax.evaluation.costs import COSTS_FILE, Costs, cost_estimates, read_costs
from mrt5_jax.evaluation.estimates import Estimates, combine_languages, estimate
from mrt5_jax.evaluation.records import Record, group_by, read_records
from mrt5_jax.runs.files import AnyPath, as_path, exists, explained, files_for, given_path
from mrt5_jax.selection.deletions import DELETIONS


class TaskResults(NamedTuple):
    """What a system does on a task of a mixture."""

    num_examples: int
    estimates: Estimates


class System(NamedTuple):
    """What a row of a table is about: a model and how it was used."""

    model: str
    step: int
    deletion: Deletion
    threshold: float | None
    search: str


SystemOnTask = tuple[str, str, System]
"""Task or mixture, split, system: what each record is of."""


class Evaluations(NamedTuple):
    """What several evaluations have left behind."""

    records: list[Record]
    costs: dict[SystemOnTask, Costs]
    """Of those that were clocked; an evaluation has the same costs for all its systems."""


@dataclasses.dataclass(frozen=True)
class SystemResults:
    """What a system does on a task."""

    system: System
    label: str
    """Its deletion, and what else tells it from the other systems on the task."""
    languages: Mapping[str, Estimates]
    """In order of appearance; of a task without languages the empty name alone."""
    num_examples: Mapping[str, int]
    """Of each language."""
    total: Estimates
    """See `combine_languages`."""
    tasks: Mapping[str, TaskResults]
    """Of a mixture with several tasks of a language, each of its tasks by its name; else empty."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Systems on the same task."""

    task: str
    """The task or mixture, as people read it."""
    split: str
    systems: Sequence[SystemResults]

    @property
    def languages(self) -> list[str]:
        """All that any system has been evaluated on, in order of appearance."""
        return list(dict.fromkeys(language for one in self.systems for language in one.languages))

    @property
    def tasks(self) -> list[str]:
        """Those of a mixture that any system has results of, sorted by what people read."""
        return sorted({task for one in self.systems for task in one.tasks}, key=lambda task: (label_of(task), task))


def compare(
    records: Iterable[Record],
    resamples: int = RESAMPLES,
    seed: int = 0,
    costs: Mapping[SystemOnTask, Costs] | None = None,
) -> list[Comparison]:
    """Groups records by task, system and language, and estimates the figures of each group.

    Args:
        records: of any evaluations; an example is there once for each system.
        resamples: of the standard errors, see `bootstrap_errors`.
        seed: the same.
        costs: of the systems that were clocked; None: of none.
    """
    return [
        Comparison(
            label_of(task),
            split,
            [
                _with_costs(
                    _results(
                        system, own, undeleted_records(system, systems), _label(system, list(systems)), resamples, seed
                    ),
                    own,
                    (costs or {}).get((task, split, system)),
                )
                for system, own in systems.items()
            ],
        )
        for (task, split), systems in group_systems(records).items()
    ]


def _with_costs(results: SystemResults, records: list[Record], costs: Costs | None) -> SystemResults:
    if costs is None:
        return results
    deletion, by_language = results.system.deletion, group_by(records, "language")
    languages = {
        language: own | cost_estimates(by_language[language], costs, deletion, language)
        for language, own in results.languages.items()
    }
    total = results.total | cost_estimates(records, costs, deletion)
    return dataclasses.replace(results, languages=languages, total=total)


def group_systems(records: Iterable[Record]) -> dict[tuple[str, str], dict[System, list[Record]]]:
    """Groups records by task or mixture with its split, and there by system, in order of appearance."""
    tasks: dict[tuple[str, str], dict[System, list[Record]]] = {}
    for record in records:
        of_task = tasks.setdefault((record.mixture or record.task, record.split), {})
        of_task.setdefault(system_of(record), []).append(record)
    return tasks


def system_of(record: Record) -> System:
    """Returns the system that a record is of."""
    return System(record.model, record.step, record.deletion, record.threshold, record.search)


def costs_by_system(records: Iterable[Record], costs: Costs | None) -> dict[SystemOnTask, Costs]:
    """Returns the costs of an evaluation for each system on each task that its records are of; none of None."""
    if costs is None:
        return {}
    return dict.fromkeys(((one.mixture or one.task, one.split, system_of(one)) for one in records), costs)


def _results(
    system: System, records: list[Record], undeleted: list[Record], label: str, resamples: int, seed: int
) -> SystemResults:
    by_language = group_by(records, "language")
    estimates = {language: estimate(own, undeleted, resamples, seed) for language, own in by_language.items()}
    counts = {language: len(own) for language, own in by_language.items()}
    groups = [(own, estimates[language]) for language, own in by_language.items()]
    told_by_language = len({(record.task, record.language) for record in records}) == len(by_language)
    by_task = {} if told_by_language else group_by(records, "task")
    tasks = {task: TaskResults(len(own), estimate(own, undeleted, resamples, seed)) for task, own in by_task.items()}
    return SystemResults(system, label, estimates, counts, combine_languages(groups, undeleted), tasks)


def undeleted_records(system: System, systems: Mapping[System, list[Record]]) -> list[Record]:
    """Returns the records of the same checkpoint without deletion: none if there are none, or if it is about these."""
    if not _deletes(system.deletion):
        return []
    for other, records in systems.items():
        if not _deletes(other.deletion) and (other.model, other.step) == (system.model, system.step):
            return records
    return []


def _deletes(deletion: Deletion) -> bool:
    return DELETIONS[deletion].heeds_selector


def _label(system: System, systems: Sequence[System]) -> str:
    shown = {
        "model": system.model or "model",
        "step": f"step {system.step}",
        "deletion": system.deletion,
        "threshold": "" if system.threshold is None else f"threshold {system.threshold:g}",
        "search": system.search,
    }
    alike = [one for one in systems if (one.model, one.deletion) == (system.model, system.deletion)]
    told = [
        text
        for name, text in shown.items()
        if name == "deletion" or len({getattr(one, name) for one in (alike if name == "threshold" else systems)}) > 1
    ]
    return ", ".join(filter(None, told))


def read_evaluations(sources: Sequence[str], default_name: str = "records.jsonl") -> Evaluations:
    """Reads the records of several evaluations, to compare them, and what lies beside them of their costs.

    Args:
        sources: files of records, or folders with one; `NAME=PATH` calls its models NAME.
        default_name: of the file in a folder.

    Raises:
        UserError: a file is not there, is damaged, of a newer schema or empty, or two have the same task and system.
    """
    found: list[Record] = []
    costs: dict[SystemOnTask, Costs] = {}
    places: dict[SystemOnTask, str] = {}
    for source in sources:
        with explained(source):
            name, path = named_source(source)
            file = _file_of(path, default_name)
        records = read_records(file)
        if not records:
            raise UserError(f"{file}: holds no records: give what `mrt5 eval` wrote")
        if name:
            records = [record._replace(model=name) for record in records]
        for key in dict.fromkeys((one.mixture or one.task, one.split, system_of(one)) for one in records):
            if key in places:
                same = f"{file} and {places[key]} both hold {label_of(key[0])} of {key[2].model or 'a model'} under "
                raise UserError(f"{same}{key[2].deletion} deletion: give one of them, or name one, as in OTHER={file}")
            places[key] = str(file)
        found += records
        if as_path(file).name == default_name:
            costs |= costs_by_system(records, read_costs(as_path(file).parent / COSTS_FILE))
    return Evaluations(found, costs)


def named_source(source: str) -> tuple[str, str]:
    """Returns the name that a source gives as NAME=PATH, or an empty one, and its path.

    Raises:
        UserError: the name or the path is empty, or nothing serves the path.
    """
    name, equals, path = source.partition("=")
    if not equals or "/" in name or exists(source):
        return "", given_path(source)
    if not name or not path:
        raise UserError(f"{source}: write NAME=PATH, or a path alone")
    return name, given_path(path)


def _file_of(path: str, name: str) -> AnyPath:
    """The path, or the file of that name in the folder that it is."""
    if exists(path) and files_for(path).stat(path).kind == "folder":
        return as_path(path) / name
    return path
