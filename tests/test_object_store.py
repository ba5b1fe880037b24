"""Shards in an object store that stumbles: asked again, never skipped, never believed unread."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from embre import object_store
from embre.object_store import StoreFailed, with_retries
from embre.shards import shard_set
from embre.shards.shard_set import ShardSet
from tests.shard_sets import write_shards
from tests.slow_time import Clock

SHARD = "train-000000.tar"


class Stumbling(MemoryFileSystem):
    """A store in memory, for `gs://`, that does to each reading of a shard what `troubles` say."""

    protocol = "gs"
    troubles: list[str] = []
    asked = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("gs://", "memory://"))

    def _open(self, path: str, mode: str = "rb", **settings: Any) -> Any:
        if not path.endswith(SHARD) or mode != "rb":
            return super()._open(path, mode, **settings)
        Stumbling.asked += 1
        trouble = self.troubles.pop(0) if self.troubles else ""
        if trouble == "503":
            raise OSError("503 Service Unavailable")
        file = super()._open(path, mode, **settings)
        if trouble == "short":
            return _Bytes(file.read()[:-100])
        if trouble == "wrong":
            return _Bytes(bytes(len(file.read())))
        return file


class Status(Exception):
    """As aiohttp tells it."""

    def __init__(self, status: int):
        super().__init__(f"{status}, url='https://me:5eCr3t@host/a?token=5eCr3t'")
        self.status = status


class HttpError(Exception):
    """As gcsfs tells it."""

    def __init__(self, code: int):
        super().__init__(str(code))
        self.code = code


class NoCredentialsError(Exception):
    """As botocore tells it."""


def by_web(status: int | None) -> FileNotFoundError:
    """As fsspec tells whatever a web server says, or that it says nothing."""
    error = FileNotFoundError("https://host/a?token=5eCr3t")
    error.__cause__ = TimeoutError() if status is None else Status(status)
    return error


def failing(error: Exception, times: int = 99) -> Callable[[], bytes]:
    """What fails some times and then gives bytes."""
    left = [error] * times

    def ask() -> bytes:
        if left:
            raise left.pop()
        return b"bytes"

    return ask


class _Bytes:
    def __init__(self, data: bytes):
        self.data = data

    def read(self) -> bytes:
        return self.data

    def close(self) -> None: ...


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[ShardSet]:
    monkeypatch.setattr(shard_set, "time", clock)
    monkeypatch.setitem(_registry, "gs", Stumbling)
    local = write_shards(tmp_path, 20)
    store = Stumbling()
    for path in Path(local.url).iterdir():
        if path.is_file():
            store.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    Stumbling.troubles, Stumbling.asked = [], 0
    found = ShardSet.open("gs://bucket")
    assert found.manifest == local.manifest
    yield found
    store.rm("/bucket", recursive=True)


@pytest.mark.parametrize("troubles", [[], ["503"] * 3, ["short"], ["503", "short", "wrong"]])
def test_what_passes_is_waited_for(store: ShardSet, troubles: list[str]) -> None:
    wanted = [block.doc_ids for block in store.load(store.shards("train")[0])]
    Stumbling.troubles, Stumbling.asked = list(troubles), 0
    assert [block.doc_ids for block in store.load(store.shards("train")[0])] == wanted
    assert Stumbling.asked == len(troubles) + 1


def test_what_stays_wrong_is_an_error_that_names_the_shard(store: ShardSet) -> None:
    Stumbling.troubles = ["wrong"] * 9
    with pytest.raises(ValueError, match=f"gs://bucket/{SHARD}: .* bytes that do not match"):
        store.load(store.shards("train")[0])
    assert Stumbling.asked == 1 + shard_set.RETRIES


def test_an_outage_of_minutes_is_waited_for_and_a_longer_one_is_told(
    store: ShardSet, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    Stumbling.troubles = ["503"] * 9
    store.load(store.shards("train")[0])
    assert 100 < clock.now < object_store.GIVE_UP_AFTER_S
    assert "retrying in" in caplog.text
    Stumbling.troubles, clock.slept = ["503"] * 99, []
    with pytest.raises(StoreFailed, match=f"gs://bucket/{SHARD}: cannot be read: 503.* 5 minutes"):
        store.load(store.shards("train")[0])
    assert sum(clock.slept) == pytest.approx(object_store.GIVE_UP_AFTER_S)
    assert max(clock.slept) <= object_store.MAX_WAIT_S


def test_two_processes_do_not_come_back_at_once(clock: Clock) -> None:
    one, other = (list(islice(object_store.backoff_delays("gs://bucket/x"), 8)) for _ in "ab")
    assert one != other
    for waited in (one, other):
        assert all(2**n / 2 <= wait_s <= 2**n for n, wait_s in enumerate(waited[:5]))


def test_credentials_of_a_machine_are_asked_for_three_times(clock: Clock) -> None:
    error = NoCredentialsError("Unable to locate credentials")
    with pytest.raises(PermissionError, match="give every machine credentials"):
        with_retries("s3://bucket/x", failing(error))
    assert len(clock.slept) == 2


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (FileNotFoundError("x"), FileNotFoundError),
        (by_web(404), FileNotFoundError),
        (Status(404), FileNotFoundError),
        (by_web(403), PermissionError),
        (Status(401), PermissionError),
        (HttpError(401), PermissionError),
        (OSError("Forbidden: bucket/x\nanonymous caller"), PermissionError),
        (PermissionError("AccessDenied"), PermissionError),
        (Status(400), OSError),
        (ImportError("install s3fs"), OSError),
    ],
    ids=repr,
)
def test_what_does_not_get_better_is_told_at_once(
    error: Exception, raised: type[OSError], clock: Clock
) -> None:
    with pytest.raises(raised, match="^gs://bucket/x: ") as told:
        with_retries("gs://me:5eCr3t@bucket/x?token=5eCr3t", failing(error))
    assert type(told.value) is raised and not clock.slept
    assert "5eCr3t" not in str(told.value)
    if isinstance(error, ImportError):
        assert "pip install -c constraints.txt -e '.[s3]'" in str(told.value)
    if raised is PermissionError:
        assert "give every machine credentials" in str(told.value)


@pytest.mark.parametrize(
    "error",
    [
        by_web(503),
        by_web(429),
        by_web(None),
        Status(500),
        HttpError(503),
        TimeoutError(),
        OSError("reset"),
    ],
    ids=repr,
)
def test_what_may_pass_is_asked_again(error: Exception, clock: Clock) -> None:
    assert with_retries("gs://bucket/x", failing(error, times=3)) == b"bytes"
    assert len(clock.slept) == 3
    with pytest.raises(type(error)):
        with_retries("/here/x", failing(error))


def test_a_shard_that_is_not_there_is_missed_at_once(store: ShardSet) -> None:
    Stumbling().rm(f"/bucket/{SHARD}")
    Stumbling.asked = 0
    with pytest.raises(FileNotFoundError):
        store.load(store.shards("train")[0])
    assert Stumbling.asked == 1


def test_a_local_file_is_read_once(tmp_path: Path) -> None:
    local = write_shards(tmp_path, 20)
    (Path(local.url) / SHARD).write_bytes(b"")
    with pytest.raises(ValueError, match="the shard is damaged"):
        local.load(local.shards("train")[0])
