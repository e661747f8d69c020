"""What users give to the front door: texts, lists of them and numbers, checked, and refused in one line."""

import numbers
from collections.abc import Iterator, Sequence
from typing import Any

from mrt5_jax.errors import UserError
from mrt5_jax.validation import LARGEST_INTEGER

Text = str | bytes
"""A text; bytes need not be UTF-8."""

_EXAMPLES = {"texts": '["a text"]', "pairs": '[("input", "target")]'}


def numbered(items: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Returns the items of a list, each with what a message calls it.

    Args:
        items: a list, or another sequence.
        name: of the argument, "texts" or "pairs".

    Returns:
        pairs ("texts[0]", item), in order.

    Raises:
        UserError: it is no list, or an empty one.
    """
    if isinstance(items, Text) or not isinstance(items, Sequence):
        raise UserError(f"{name} is of type {type(items).__name__}: give a list, as in {_EXAMPLES[name]}")
    if not items:
        raise UserError(f"{name} is an empty list: give at least one, as in {_EXAMPLES[name]}")
    return ((f"{name}[{number}]", item) for number, item in enumerate(items))


def text_bytes(text: Text, place: str) -> bytes:
    """Returns the UTF-8 of a text, and bytes as they are.

    Args:
        text: a string, or bytes.
        place: what a message calls it.

    Raises:
        UserError: it is neither.
    """
    if not isinstance(text, Text):
        raise UserError(f"{place} is of type {type(text).__name__}: give a string, or bytes")
    try:
        return text.encode() if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise UserError(f"{place} is not text: {error.reason}: give bytes") from None


def check_counts(**given: Any) -> None:
    """Refuses what is no whole number from 1 on.

    Args:
        given: values by the names of their arguments; None stands for a default.

    Raises:
        UserError: names the argument.
    """
    for name, value in given.items():
        if value is not None and not (isinstance(value, numbers.Integral) and 1 <= int(value) <= LARGEST_INTEGER):
            raise UserError(f"{name}={value!r}: must be a whole number, at least 1 and at most {LARGEST_INTEGER}")
