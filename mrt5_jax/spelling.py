"""What a misspelt name was meant to be."""

import difflib
from collections.abc import Iterable

CUTOFF = 0.7


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Returns `; did you mean X?` to end a message with, or nothing where no candidate is near.

    A name that is near as a whole goes before one whose part behind the last dot is.
    """
    names = sorted(candidates)
    by_ending = {candidate.rpartition(".")[2]: candidate for candidate in names}
    endings = difflib.get_close_matches(name.rpartition(".")[2], by_ending, n=1, cutoff=CUTOFF)
    close = difflib.get_close_matches(name, names, n=1, cutoff=CUTOFF) or [by_ending[ending] for ending in endings]
    return f"; did you mean {close[0]}?" if close else ""
