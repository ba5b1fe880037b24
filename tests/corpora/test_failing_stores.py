"""Inputs in a store that fails in the middle: read on, or told; never half a file."""

import gzip
from hashlib import sha256
from io import BytesIO
from typing import BinaryIO

import pytest
from fsspec import AbstractFileSystem

from embre import object_store
from embre.corpora.sources import Source, Watch, list_files, open_plain, stored_sha256
from embre.object_store import StoreFailed
from embre.tally import Tally
from tests.slow_time import Clock

PLAIN = b"".join(b"%d|t|the gene\n\n" % n for n in range(100_000))
PACKED = gzip.compress(PLAIN, mtime=0)


class Failing(AbstractFileSystem):
    """A web server with one file, which breaks every stream off after some bytes; `down` is how
    often it then does not answer at all."""

    def __init__(self, bytes_a_stream: int, down: int = 0, ranges: bool = True):
        super().__init__()
        self.bytes_a_stream, self.down, self.ranges = bytes_a_stream, down, ranges
        self.data, self.etag, self.opened, self.failures = PACKED, "a", 0, 0

    def info(self, path: str, **settings: object) -> dict[str, object]:
        return {"name": path, "size": len(self.data), "type": "file", "ETag": self.etag}

    def open(self, path: str, mode: str = "rb", *args: object, **settings: object) -> BinaryIO:
        self.opened += 1
        if self.failures:
            self.failures -= 1
            raise self.trouble()
        return Stream(self)

    def trouble(self) -> Exception:
        return RuntimeError("503, url=URL('https://me:5eCr3t@host/a?token=5eCr3t')")


class Stream(BytesIO):
    def __init__(self, store: Failing):
        super().__init__(store.data)
        self.store, self.left = store, store.bytes_a_stream

    def read(self, size: int | None = -1) -> bytes:
        if not self.left:
            self.store.failures = self.store.down
            raise self.store.trouble()
        data = super().read(min(size or 0, self.left))
        self.left -= len(data)
        return data

    def seek(self, place: int, whence: int = 0) -> int:
        if not self.store.ranges:
            raise ValueError("Cannot seek streaming HTTP file")
        return super().seek(place, whence)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def read(store: Failing, watch: Watch | None = None) -> bytes:
    source = Source(store, "a", "https://host/a")
    assert list_files(source) == [source]
    return b"".join(
        opened.stream.read() for opened in open_plain(source, False, Tally(), watch=watch)
    )


def test_the_same_bytes_come_from_a_store_that_fails_in_the_middle(clock: Clock) -> None:
    store, watch = Failing(bytes_a_stream=100_000, down=2), Watch()
    assert read(store, watch) == PLAIN
    assert store.opened > len(PACKED) // 100_000 > 1
    assert watch.sha256.hexdigest() == sha256(PACKED).hexdigest()
    assert stored_sha256(Source(store, "a", "https://host/a")) == sha256(PACKED).hexdigest()
    assert len(clock.slept) > 2


def test_a_store_that_goes_on_failing_is_told_without_its_secret(clock: Clock) -> None:
    with pytest.raises(StoreFailed, match="^https://host/a: cannot be read: 503") as failed:
        read(Failing(bytes_a_stream=100_000, down=99))
    assert clock.now == pytest.approx(object_store.GIVE_UP_AFTER_S)
    assert "5eCr3t" not in str(failed.value)


def test_what_may_no_longer_be_read_is_told_at_once(clock: Clock) -> None:
    store = Failing(bytes_a_stream=100_000)
    store.trouble = lambda: PermissionError("403, url=URL('https://host/a?token=5eCr3t')")
    with pytest.raises(PermissionError, match="^https://host/a: .*that has not expired") as failed:
        read(store)
    assert not clock.slept and "5eCr3t" not in str(failed.value)


def test_a_store_that_cannot_begin_in_the_middle_is_told(clock: Clock) -> None:
    with pytest.raises(StoreFailed, match="failed after 100,000 bytes and cannot continue there"):
        read(Failing(bytes_a_stream=100_000, ranges=False))


def test_a_file_that_is_another_by_then_is_told(clock: Clock) -> None:
    store = Failing(bytes_a_stream=100_000)

    def trouble() -> Exception:
        store.etag = "b"
        return RuntimeError("503")

    store.trouble = trouble
    with pytest.raises(StoreFailed, match="^https://host/a: changed while it was read"):
        read(store)
