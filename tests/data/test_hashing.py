"""Tests of the stream that reads ahead and hashes: its bytes, its digest, its errors, and that no thread is left."""

import errno
import hashlib
import io
import random
import threading

import pytest

from mrt5_jax.data.hashing import HashedStream

CONTENT = random.Random(0).randbytes((9 << 20) + 7)


class Failing(io.BytesIO):
    """A storage that does not answer after the first five megabytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= 5 << 20:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize("size", [8191, 1 << 17, 5 << 20])
@pytest.mark.parametrize("reads", [0, 1, 2, None], ids=str)
def test_whatever_was_read_the_digest_is_of_all_bytes(size: int, reads: int | None) -> None:
    with HashedStream(io.BytesIO(CONTENT)) as stream:
        if reads is None:
            assert b"".join(iter(lambda: stream.read(size), b"")) == CONTENT
        else:
            assert b"".join(stream.read(size) for _ in range(reads)) == CONTENT[: reads * size]
        assert stream.hexdigest() == hashlib.sha256(CONTENT).hexdigest()
        assert stream.read(1) == b""


@pytest.mark.parametrize("content", [b"", b"a", CONTENT[: 4 << 20]], ids=len)
def test_files_that_end_with_a_block_or_before_one(content: bytes) -> None:
    with HashedStream(io.BytesIO(content)) as stream:
        assert stream.read() == content
        assert stream.hexdigest() == hashlib.sha256(content).hexdigest()


def test_an_error_of_the_storage_reaches_the_reader_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with HashedStream(Failing(CONTENT)) as stream:
        assert stream.read(4 << 20) == CONTENT[: 4 << 20]
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error") as error:
                stream.hexdigest()
            assert error.value.errno == errno.EIO
    assert threading.active_count() == before


def test_a_reader_that_gives_up_leaves_no_thread_and_the_stream_open() -> None:
    before, raw = threading.active_count(), io.BytesIO(CONTENT)
    with pytest.raises(ValueError, match="invalid literal"), HashedStream(raw) as stream:
        int(stream.read(9))
    assert threading.active_count() == before
    assert not raw.closed
