"""What a body asks for: its fields, checked, as works for the queue."""

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

from mrt5_jax.api.given import Text, text_bytes
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.inspection import split_text
from mrt5_jax.inference.requests import request_of
from mrt5_jax.serve.limits import REPEATED_CHARACTERS, RefusedError, ServeLimits
from mrt5_jax.serve.warm_model import Endpoint, WarmModel, Work
from mrt5_jax.spelling import nearest

BODY_FIELDS: Mapping[Endpoint, tuple[str, ...]] = {
    "generate": ("texts", "threshold", "truncate", "stream"),
    "score": ("pairs", "threshold", "truncate"),
    "deletions": ("texts", "threshold"),
    "embeddings": ("texts", "threshold", "truncate"),
}
"""What each endpoint reads; the first one is needed."""


class Asked(NamedTuple):
    """What a body asks for."""

    works: list[Work]
    sizes: list[int]
    """How many works, in order, belong to each text or pair: windows where deletions are asked, else one."""
    stream: bool


def asked_of(endpoint: Endpoint, fields: Mapping[str, Any], warm: WarmModel, limits: ServeLimits) -> Asked:
    """Checks a body's fields and turns them into works.

    Raises:
        RefusedError: they are not what the endpoint takes (422), or too many texts, or their answer would be too large
            (413).
    """
    known = BODY_FIELDS[endpoint]
    for name in fields:
        if name not in known:
            short = name[:REPEATED_CHARACTERS]
            raise RefusedError(
                422, f"{endpoint} takes no field {short!r}{nearest(short, known)}; it takes {', '.join(known)}"
            )
    if endpoint == "deletions" and warm.no_deletions is not None:
        raise RefusedError(422, warm.no_deletions)
    threshold, truncate = _threshold(fields), _flag(fields, "truncate")
    try:
        if threshold is not None:
            warm.check_threshold(endpoint, threshold)
        by_item = [
            _works(endpoint, item, f"{known[0]}[{number}]", threshold, truncate, warm, limits)
            for number, item in enumerate(_items(fields, known[0], limits))
        ]
    except UserError as error:
        raise RefusedError(422, str(error)) from None
    works = [work for own in by_item for work in own]
    if len(works) > limits.texts:
        raise RefusedError(
            413, f"{known[0]}: cut into {len(works)} windows, more than {limits.texts}: send fewer at once"
        )
    if endpoint == "embeddings":
        _check_answer_fits(works, warm, limits)
    return Asked(works, list(map(len, by_item)), _flag(fields, "stream"))


def _check_answer_fits(works: list[Work], warm: WarmModel, limits: ServeLimits) -> None:
    """Refuses texts whose hidden states would be too many for an answer, even if some of them are deleted."""
    ids = sum(len(work.request.input_ids) for work in works)
    most = limits.embedding_ids(warm.width, warm.limits.input_length)
    if ids > most:
        raise RefusedError(
            413,
            f"texts: {ids} ids together, more than the {most} whose hidden states fit an answer: send fewer at once",
        )


def _items(fields: Mapping[str, Any], name: str, limits: ServeLimits) -> list[Any]:
    items = fields.get(name)
    if not isinstance(items, list) or not items:
        found = "is missing" if name not in fields else "is no list of at least one"
        example = '[["input", "target"]]' if name == "pairs" else '["a text"]'
        raise RefusedError(422, f"{name} {found}: give it, as in {example}")
    if len(items) > limits.texts:
        raise RefusedError(413, f"{name}: {len(items)} of them, more than {limits.texts}: send fewer at once")
    return items


def _works(
    endpoint: Endpoint,
    item: Any,
    place: str,
    threshold: float | None,
    truncate: bool,
    warm: WarmModel,
    limits: ServeLimits,
) -> list[Work]:
    taken = warm.cutting_limits if truncate else warm.limits
    if endpoint == "score":
        if not isinstance(item, list) or len(item) != 2:
            raise RefusedError(422, f'{place} is no pair: give ["input", "target"]')
        inputs, targets = (_text(text, place) for text in item)
        return [Work(endpoint, request_of(inputs, targets, place, taken), threshold)]
    text = _text(item, place)
    if endpoint != "deletions":
        return [Work(endpoint, request_of(text, None, place, taken), threshold)]
    data, window_bytes = text_bytes(text, place), taken.input_length - 1
    if len(data) > limits.texts * window_bytes:
        raise RefusedError(
            413, f"{place}: {len(data)} bytes, more than {limits.texts} windows of {window_bytes} hold: cut it"
        )
    windows = split_text(data, taken.input_length)
    return [Work(endpoint, request_of(window, None, place, taken), threshold) for window in windows]


def _text(item: Any, place: str) -> Text:
    """A string, or the bytes of {"base64": "..."}, which need not be UTF-8."""
    if isinstance(item, str):
        return item
    if isinstance(item, dict) and list(item) == ["base64"] and isinstance(item["base64"], str):
        try:
            return base64.b64decode(item["base64"], validate=True)
        except ValueError as error:
            raise RefusedError(422, f"{place}: not base64: {error}") from None
    raise RefusedError(422, f'{place} is no text: give a string, or {{"base64": "..."}} for any bytes')


def _threshold(fields: Mapping[str, Any]) -> float | None:
    given = fields.get("threshold")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise RefusedError(422, "threshold is no number: give a gate value, or leave it out")
    try:
        return float(given)
    except OverflowError:
        raise RefusedError(422, "threshold is beyond the largest number: give a gate value") from None


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    given = fields.get(name, False)
    if not isinstance(given, bool):
        raise RefusedError(422, f"{name} is neither true nor false")
    return given
