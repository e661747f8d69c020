"""The clients of gs:// and s3:// buckets: their endpoints, their credentials, and what their errors mean.

Nothing heavy is imported before a path in a bucket is used. Both clients are file systems of fsspec; see
docs/buckets.md.
"""

import abc
import errno
import functools
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mrt5_jax.errors import UserError

EXTRAS = {"gs": "gcs", "s3": "s3"}
"""Scheme -> the extra of this package that serves it."""
_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
_TRANSIENT_ERRNO = {errno.EBUSY, errno.EREMOTEIO, errno.ECONNRESET, errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EPIPE}
_NETWORK_ERRORS = {
    "aiohttp.ClientError", "requests.RequestException", "botocore.HTTPClientError", "botocore.ConnectionError",
    "botocore.IncompleteReadError", "google.TransportError", "gcsfs.ChecksumError",
}  # fmt: skip
_WITHOUT_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError"}
_SECONDS_PER_REQUEST = 60


class TransientError(Exception):
    """A request failed in a way that the next one may not."""


def client_options(scheme: str) -> dict[str, Any]:
    """Returns endpoint and credentials of a scheme's client: the one place that sets them.

    STORAGE_EMULATOR_HOST names another server for gs://, which is then asked without credentials; AWS_ENDPOINT_URL_S3
    or AWS_ENDPOINT_URL one for s3://. Credentials are the libraries' own: Google's application default credentials, and
    the environment, files and instance roles of AWS.
    """
    no_listings = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "gs":
        emulator = os.environ.get("STORAGE_EMULATOR_HOST")
        located = {"token": "anon", "endpoint_url": _with_scheme(emulator)} if emulator else {}
        return {"requests_timeout": _SECONDS_PER_REQUEST, **no_listings, **located}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    once = {"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": _SECONDS_PER_REQUEST}
    return {"endpoint_url": endpoint, "config_kwargs": once, **no_listings}


def _with_scheme(host: str) -> str:
    return host if "://" in host else f"http://{host}"


class Client(abc.ABC):
    """A file system of fsspec, and what it does not say in the same words as others."""

    def __init__(self, system: Any) -> None:
        self.system = system

    @abc.abstractmethod
    def content_of(self, info: Mapping[str, Any]) -> tuple[int | str, ...]:
        """Returns what identifies an object's content: the checksum that the storage keeps."""

    def explain(self, error: Exception) -> Exception:
        """Returns the error as a `TransientError` or as an OSError with a number and in words; others as they are."""
        chain = list(_causes(error))
        status = next(filter(None, map(_status, chain)), None)
        without = any(type(cause).__name__ in _WITHOUT_CREDENTIALS for cause in chain)
        if without or status in (401, 403) or any(isinstance(cause, PermissionError) for cause in chain):
            words = f"there are no credentials for it, or they give no right to it ({_first_line(error)})"
            return PermissionError(errno.EACCES, words)
        if isinstance(error, FileExistsError):
            return FileExistsError(errno.EEXIST, "is there already")
        if isinstance(error, FileNotFoundError) or status == 404:
            return FileNotFoundError(errno.ENOENT, "No such object, or no such bucket")
        if status in _TRANSIENT_STATUS or any(map(_is_of_the_network, chain)):
            return TransientError(_first_line(error))
        if isinstance(error, OSError) and error.errno is None:
            return OSError(errno.EINVAL, _first_line(error))
        return error


class _Gcs(Client):
    def content_of(self, info: Mapping[str, Any]) -> tuple[int | str, ...]:
        return ("gs", info["size"], info.get("md5Hash") or "", info.get("crc32c") or info["generation"])


class _S3(Client):
    def content_of(self, info: Mapping[str, Any]) -> tuple[int | str, ...]:
        return ("s3", info["size"], info["ETag"])


def connect(scheme: str) -> Client:
    """Returns the client of a scheme, made once in a process.

    Raises:
        UserError: the extra that serves the scheme is not installed.
    """
    return _connect(scheme, os.getpid(), repr(client_options(scheme)))


@functools.lru_cache(maxsize=8)
def _connect(scheme: str, process: int, options: str) -> Client:  # a fork has threads of its own, a test other servers
    try:
        if scheme == "gs":
            from gcsfs.core import GCSFileSystem  # without gRPC, which would be tried for a minute

            logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs tracebacks of what is raised as well

            class Once(GCSFileSystem):
                """Asks once: who asks decides how often."""

                _request = getattr(GCSFileSystem._request, "__wrapped__", GCSFileSystem._request)

            return _Gcs(Once(**client_options(scheme)))
        from s3fs import S3FileSystem

        system = S3FileSystem(**client_options(scheme))
        system.retries = 1
        return _S3(system)
    except ImportError as error:
        extra = EXTRAS[scheme]
        raise UserError(f"{scheme}:// needs the extra {extra}: pip install 'mrt5-jax[{extra}]' ({error})") from None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status that an error of gcsfs, aiohttp or botocore tells."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # gcsfs's
        return 403
    code = str(getattr(error, "code", None) or getattr(error, "status", None))
    return int(code) if code.isdigit() else None


def _is_of_the_network(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO:
        return True
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    return bool(names & _NETWORK_ERRORS)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
