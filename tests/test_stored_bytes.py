"""Shards in an object store that stumbles: asked again, never skipped, never believed unread."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from embre import stored_bytes
from embre.shards.shard_set import ShardSet
from tests.shard_sets import write_shards

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


class _Bytes:
    def __init__(self, data: bytes):
        self.data = data

    def read(self) -> bytes:
        return self.data

    def close(self) -> None: ...


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardSet]:
    monkeypatch.setattr(stored_bytes, "RETRY_AFTER_S", (0.01, 0.01, 0.01))
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
    with pytest.raises(ValueError, match=f"gs://bucket/{SHARD}: .* bytes that are not those"):
        store.load(store.shards("train")[0])
    Stumbling.troubles = ["503"] * 9
    with pytest.raises(OSError, match=f"gs://bucket/{SHARD}: cannot be read: 503"):
        store.load(store.shards("train")[0])


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
