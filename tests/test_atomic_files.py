"""A file is there whole or not at all."""

import errno
import os
from fnmatch import fnmatch
from pathlib import Path

import pytest

from embre import atomic_files
from embre.atomic_files import (
    LEFTOVERS,
    atomic_file,
    atomic_folder,
    clear_leftovers,
    fsync_path,
    fsync_tree,
    write_atomic,
)


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
    write_atomic(tmp_path / "name.json", data)
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
        patch.setattr(atomic_files, "fault_point", stop_at(point, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write_atomic(path, b"after")
    assert (path.read_bytes() if path.exists() else None) == before
    write_atomic(path, b"after")
    assert path.read_bytes() == b"after" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_was_moved_on_at_once_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, moved = tmp_path / "partial", tmp_path / "final"
    folder.mkdir()

    def sync_late(path: Path) -> None:
        if path == folder:
            folder.rename(moved)
        fsync_path(path)

    monkeypatch.setattr(atomic_files, "fsync_path", sync_late)
    write_atomic(folder / "note.json", b"it is there")
    assert (moved / "note.json").read_bytes() == b"it is there"


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(atomic_files, "fault_point", stop_at("half_written", no_space))
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "name.json", b"after")
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
    write_atomic(tmp_path / "name.json", b"data")
    (partial, already), last = flushed
    assert fnmatch(partial, f"name.json{LEFTOVERS[1:]}") and not already
    assert last == (tmp_path.name, True)


def test_several_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "name.json"
    with atomic_file(path) as one, atomic_file(path) as other:
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert path.read_bytes() == b"one" and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt(), ValueError("no")])
def test_what_fails_leaves_all_as_it_was(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "name.json"
    path.write_bytes(b"before")
    with pytest.raises(type(error)), atomic_file(path) as partial:
        partial.write_bytes(b"half")
        raise error
    with atomic_file(path) as partial:
        partial.write_bytes(b"not wanted")
        partial.unlink()
    assert path.read_bytes() == b"before" and [*tmp_path.iterdir()] == [path]


def test_a_folder_is_flushed_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "model"
    final.mkdir()
    (final / "old").write_text("a")
    flushed: list[tuple[int, str]] = []

    def fsync(handle: int) -> None:
        flushed.append((os.fstat(handle).st_ino, next(final.iterdir()).name))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_folder(final) as partial:
        partial.mkdir()
        (partial / "new").write_text("a")
        wanted = [(partial / "new", "old"), (partial, "old"), (tmp_path, "new")]
        wanted = [(path.stat().st_ino, holds) for path, holds in wanted]
    assert flushed == wanted and not partial.exists()


def test_a_folder_that_fails_leaves_nothing_and_another_of_its_name_as_it_was(
    tmp_path: Path,
) -> None:
    final = tmp_path / "model"
    with atomic_folder(final) as first, atomic_folder(final) as second:  # as of two attempts
        for folder in (first, second):
            folder.mkdir()
            (folder / "weights").write_text(folder.name)
    assert (final / "weights").read_text() == first.name and [*tmp_path.iterdir()] == [final]
    with pytest.raises(RuntimeError, match="broken"), atomic_folder(final) as partial:
        partial.mkdir()
        raise RuntimeError("broken")
    assert (final / "weights").read_text() == first.name and [*tmp_path.iterdir()] == [final]


def test_what_killed_processes_left_is_cleared_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "in" / "model.0123abcd.partial").mkdir(parents=True)
    (tmp_path / "in" / "model.0123abcd.partial" / "weights").write_text("a")
    (tmp_path / "a.tar.89abcdef.partial").write_text("half")
    (tmp_path / "notes.partial").write_text("of a user")
    clear_leftovers(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "notes.partial"}


def test_all_that_is_in_a_folder_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    wanted = [tmp_path, tmp_path / "in", tmp_path / "in" / "a", tmp_path / "b"]
    for path in wanted[2:]:
        path.write_text("a")
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
    fsync_tree(tmp_path)
    assert sorted(flushed) == sorted(path.stat().st_ino for path in wanted)
