"""What is known of a file without opening it, wherever it lies."""

import dataclasses
from pathlib import PurePath
from typing import Literal

AnyPath = str | PurePath
"""A path on this machine, or of an object in a bucket as gs://bucket/name."""


@dataclasses.dataclass(frozen=True)
class FileStatus:
    """What is known of a file without opening it."""

    size: int
    kind: Literal["file", "folder", "stream"]
    """stream: a pipe, a socket or a device, which can be read only once."""
    identity: tuple[int | str, ...]
    """Another one after every change of the content. In a bucket the same content has the same one everywhere."""
    changed: int | None = None
    """Nanoseconds since 1970, where a change soon after another might not show in the identity."""
