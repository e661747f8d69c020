"""Errors of a disk, a network or of permissions, as opposed to files that are broken."""

import errno
import os
import re

from mrt5_jax.runs.file_status import AnyPath

_NAMES = (
    "EACCES EPERM EIO ESTALE EISDIR EBUSY EAGAIN EINTR ENOMEM EMFILE ENFILE ENODEV ENXIO "
    "EREMOTEIO ETIMEDOUT ENOTCONN ECONNRESET ECONNREFUSED ECONNABORTED EHOSTDOWN EHOSTUNREACH "
    "ENETDOWN ENETUNREACH ENETRESET "
)
_TROUBLE = {getattr(errno, name) for name in _NAMES.split() if hasattr(errno, name)}
"""Not every system has all of them."""
_KINDS = (PermissionError, ConnectionError, TimeoutError)
_OF_TENSORSTORE = re.compile(r"OS error (\d+)|PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED")


def is_storage_trouble(error: BaseException) -> bool:
    """Says whether an error, or one that it came from, would go away once disk, network or permissions are seen to.

    A folder in the place of a file is counted in: whoever put it there knows where the file is.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, _KINDS) or (isinstance(current, OSError) and current.errno in _TROUBLE):
            return True
        if (found := _OF_TENSORSTORE.search(str(current))) and (found[1] is None or int(found[1]) in _TROUBLE):
            return True
        current = current.__cause__ or current.__context__
    return False


def trouble_below(folder: AnyPath) -> OSError | None:
    """Returns what keeps a folder, or anything in it, from being opened; libraries may say that it is not there."""
    errors: list[OSError] = []
    for parent, _, names in os.walk(folder, onerror=errors.append):
        for name in names:
            try:
                with open(os.path.join(parent, name), "rb") as file:
                    file.read(1)
            except OSError as error:
                errors.append(error)
    return next((error for error in errors if is_storage_trouble(error)), None)
