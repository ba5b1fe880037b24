"""Attempts at a run, by what their drivers and ranks find in its folder."""

from pathlib import Path
from typing import Any

import pytest

from embre.interrupts import TakenOver
from embre.launch.attempts import ATTEMPTS, RESERVED_BYTES, Attempt, read, write


def test_one_that_waits_for_room_disturbs_none_that_works(tmp_path: Path) -> None:
    first = Attempt.new(tmp_path)
    assert not first.begun() and first.begin() and first.begun()
    second = Attempt.new(tmp_path)
    assert second.folder != first.folder and not second.begun()
    assert first.begin(), "after a restart of its workers"
    first.refuse_taken_over("run")
    assert second.begin() and not first.begin(), "each would take the run back from the other"
    with pytest.raises(TakenOver, match="run: the same run was started again"):
        first.refuse_taken_over("run")
    second.refuse_taken_over("run")


def test_a_rank_that_is_slow_to_begin_takes_nothing_from_a_later_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Attempt.new(tmp_path), Attempt.new(tmp_path)
    opened, later = Path.open, iter([second])

    def slow(path: Path, mode: str = "r", **more: Any) -> Any:
        if mode != "r" and (one := next(later, None)):
            assert one.begin()
        return opened(path, mode, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", slow)
        assert not first.begin()
    assert second.begun() and not second.taken_over() and first.taken_over()


@pytest.mark.parametrize("end", ["failed", "stopped"])
def test_what_one_ended_of_is_its_own(tmp_path: Path, end: str) -> None:
    first = Attempt.new(tmp_path)
    assert first.begin()
    write(getattr(first, end), "so it is")
    second = Attempt.new(tmp_path)
    assert not first.begin(), "it would end in the same way"
    assert second.begin() and read(getattr(first, end)) == "so it is"


def test_what_ends_an_attempt_is_said_on_a_disk_that_is_full(tmp_path: Path) -> None:
    """In the bytes that its file has from the start."""
    file = Attempt.new(tmp_path).failed
    before = file.stat()
    for text in ("é" * RESERVED_BYTES, "No space left on device, says rank 0", "shorter"):
        write(file, text)
        assert text.startswith(read(file).rstrip("\ufffd"))
    after = file.stat()
    assert read(file) == "shorter"
    assert [(s.st_ino, s.st_size, s.st_blocks) for s in (after,)] == [
        (before.st_ino, RESERVED_BYTES, before.st_blocks)
    ]


def test_two_drivers_that_start_at_once_have_two_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Attempt.new(tmp_path)
    with monkeypatch.context() as patch:  # the other is not seen yet
        patch.setattr(Path, "glob", lambda *_: iter(()))
        assert Attempt.new(tmp_path).number == 2


def test_each_file_is_there_before_anybody_looks(tmp_path: Path) -> None:
    attempt = Attempt.new(tmp_path)
    assert {path.name: read(path) for path in attempt.folder.iterdir()} == {
        "failed.txt": "",
        "stopped.txt": "",
    }
    assert (tmp_path / ATTEMPTS / "latest").read_text() == ""
