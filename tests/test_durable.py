"""A file is there whole or not at all."""

import errno
import os
import socket
from pathlib import Path

import pytest

from embre import durable
from embre.durable import PARTIAL, commit, flush, sync


def stop_at(point: str, error: BaseException):
    def fault_point(name: str) -> None:
        if name == point:
            raise error

    return fault_point


@pytest.mark.parametrize("data", [b"", b"x", b"xyz" * 100_001, memoryview(b"abc")[1:]])
def test_what_is_committed_is_there_and_nothing_else(
    tmp_path: Path, data: bytes | memoryview
) -> None:
    (tmp_path / "name.json").write_bytes(b"what was there before, and longer")
    commit(tmp_path / "name.json", data)
    assert (tmp_path / "name.json").read_bytes() == bytes(data)
    assert [file.name for file in tmp_path.iterdir()] == ["name.json"]


@pytest.mark.parametrize("point", ["half_written", "written"])
@pytest.mark.parametrize("before", [None, b"before"])
def test_until_the_end_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, before: bytes | None
) -> None:
    path = tmp_path / "name.json"
    if before:
        path.write_bytes(before)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "fault_point", stop_at(point, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            commit(path, b"after")
    assert (path.read_bytes() if path.exists() else None) == before
    commit(path, b"after")
    assert path.read_bytes() == b"after" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_was_moved_on_at_once_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, moved = tmp_path / "partial", tmp_path / "final"
    folder.mkdir()

    def sync_late(path: Path) -> None:
        folder.rename(moved)
        sync(path)

    monkeypatch.setattr(durable, "sync", sync_late)
    commit(folder / "note.json", b"it is there")
    assert (moved / "note.json").read_bytes() == b"it is there"


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(durable, "fault_point", stop_at("half_written", no_space))
    with pytest.raises(OSError, match="No space left"):
        commit(tmp_path / "name.json", b"after")
    assert not list(tmp_path.iterdir())


def test_a_file_and_its_folder_are_flushed_before_and_after_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[str, bool]] = []
    sync = os.fsync

    def fsync(handle: int) -> None:
        name = os.readlink(f"/proc/self/fd/{handle}")
        flushed.append((Path(name).name, (tmp_path / "name.json").exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    commit(tmp_path / "name.json", b"data")
    partial = f"name.json.{socket.gethostname()}.{os.getpid()}{PARTIAL}"
    assert flushed == [(partial, False), (tmp_path.name, True)]


def test_processes_of_one_number_on_two_machines_have_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()

    def look(name: str) -> None:
        if name == "half_written":
            seen.update(file.name for file in tmp_path.glob(f"name.json.*{PARTIAL}"))

    monkeypatch.setattr(durable, "fault_point", look)
    for host in ("one", "two"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        commit(tmp_path / "name.json", b"data")
    assert len(seen) == 2


def test_all_that_is_in_a_folder_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    wanted = [tmp_path, tmp_path / "in", tmp_path / "in" / "a", tmp_path / "b"]
    for path in wanted[2:]:
        path.write_text("a")
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
    flush(tmp_path)
    assert sorted(flushed) == sorted(path.stat().st_ino for path in wanted)
