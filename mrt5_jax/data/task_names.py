"""Names of tasks over files: what they read, for people, and a key of the content and the settings, for runs.

`span_corruption.de_en:615c780ae28a` is called `span_corruption.de_en` wherever a person reads it. Earlier versions made
names of the files' paths and sizes; MODEL_DIRs that have them go on under them.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence

_MOST_LANGUAGES = 3
_KEY = re.compile(r":[0-9a-f]{12}$")

_former: dict[str, str] = {}


def key_of(value: object) -> str:
    """Returns twelve digits that tell apart what differs; names of classes and fields in `value` are part of them."""
    return hashlib.sha256(repr(value).encode(errors="surrogateescape")).hexdigest()[:12]


def name_with_key(label: str, key: str) -> str:
    """Makes the name under which a task is registered."""
    return f"{label}:{key}"


def label_of(name: str) -> str:
    """Returns a task's name as people read it."""
    return _KEY.sub("", _former.get(name, name))


def identifier(text: str) -> str:
    """Replaces what names of tasks may not have, all but letters and digits, by underscores."""
    return "".join(letter if letter.isalnum() else "_" for letter in text)


def languages_label(languages: Sequence[str]) -> str:
    """Joins the languages into a part of a name or, where there are many, counts them."""
    distinct = sorted(set(languages))
    if len(distinct) > _MOST_LANGUAGES:
        return f"{len(distinct)}_languages"
    return "_".join(map(identifier, distinct))


def add_former_name(former: str, name: str) -> None:
    """Notes that `former` is what an earlier version called a task."""
    _former[former] = name


def names_as_saved(names: Iterable[str], saved: Iterable[str]) -> dict[str, str]:
    """Maps each name to what a MODEL_DIR calls the task: a former name that it has saved, or the name itself."""
    formerly = {_former[name]: name for name in saved if name in _former}
    return {name: formerly.get(name, name) for name in names}
