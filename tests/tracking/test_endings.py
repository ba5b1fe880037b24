"""A rank that fails leaves a note of why; the next start reads it once."""

import os
import socket
from pathlib import Path

import pytest

from embre.interrupts import Interrupted, TakenOver
from embre.tracking.endings import (
    MAX_TRACEBACK_CHARS,
    _write_traceback,
    ending_noted,
    leave_note,
    name_of_start,
    tracebacks,
    why_ended,
)
from embre.world import World

KILLED = "no rank left an error, so one was killed or its machine lost"


def note(folder: Path, rank: int, text: str, at: int) -> None:
    path = folder / f"error-{rank}.txt"
    path.write_text(text)
    os.utime(path, (at, at))


def test_the_error_of_a_rank_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a bad\nshard"), ending_noted(tmp_path, World(), "1"):
        raise ValueError("a bad\nshard")
    name = "failures/attempt-1-rank-0.txt"
    assert why_ended(tmp_path, 1) == f"rank 0: ValueError: a bad shard; see {name}"
    assert why_ended(tmp_path, 1) == KILLED
    with ending_noted(tmp_path, World(), "2"):
        pass
    assert list(tmp_path.rglob("*.*")) == [tmp_path / name]


def fail(error: Exception) -> None:
    try:
        raise KeyError("the cause")
    except KeyError as cause:
        raise error from cause


def test_the_traceback_of_a_rank_is_kept_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary+of/the/environment")
    key = "-----BEGIN RSA PRIVATE KEY-----\ncanary\n-----END RSA PRIVATE KEY-----"
    text = (
        f"a\ud800 403 canary+of/the/environment https://me:canary@host/a?sig=canary hf_{'9' * 30} "
        f"?token=1canary {key}"
    )
    world = World(rank=3, size=4)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(OSError, match="403"), ending_noted(tmp_path, world, "2"):
        fail(OSError(text))
    found = (tmp_path / "failures/attempt-2-rank-3.txt").read_text()
    assert found.startswith(f"on {socket.gethostname()}\nTraceback (most recent call last):\n")
    assert "in fail" in found and "KeyError: 'the cause'" in found
    assert "OSError: a\\ud800 403 [AWS_SECRET_ACCESS_KEY] https://host/a [a Hugging" in found
    assert "canary" not in found and "9999" not in found
    why = why_ended(tmp_path, 4)
    assert "rank 3: OSError: a" in why and "canary" not in why
    assert why.endswith("; see failures/attempt-2-rank-3.txt")


def test_a_traceback_is_of_bounded_size_and_none_is_left_by_what_was_asked_for(
    tmp_path: Path,
) -> None:
    with pytest.raises(Interrupted), ending_noted(tmp_path, World(), "1"):
        raise Interrupted("stopped after step 3, which is saved")
    assert not (tmp_path / "failures").exists()
    with pytest.raises(RuntimeError), ending_noted(tmp_path, World(), "1"):
        raise RuntimeError("first " + "x " * MAX_TRACEBACK_CHARS + "last")
    found = (tmp_path / "failures/attempt-1-rank-0.txt").read_text()
    assert MAX_TRACEBACK_CHARS < len(found) < MAX_TRACEBACK_CHARS + 200
    assert "RuntimeError: first " in found and " characters left out]" in found
    assert found.endswith("last\n")


def test_a_rank_without_room_for_its_traceback_raises_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "failures").touch()  # a folder of this name cannot be made
    with pytest.raises(ValueError, match="a bad shard"), ending_noted(tmp_path, World(), "1"):
        raise ValueError("a bad shard")
    assert why_ended(tmp_path, 1) == "rank 0: ValueError: a bad shard"


def test_the_tracebacks_of_the_last_attempt_are_found_the_first_failure_first(
    tmp_path: Path,
) -> None:
    assert tracebacks(tmp_path) == []
    (tmp_path / "failures").mkdir()
    for name, at in [("9-rank-0", 5), ("10-rank-0", 8), ("10-rank-11", 7)]:
        path = tmp_path / f"failures/attempt-{name}.txt"
        path.touch()
        os.utime(path, (at, at))
    (tmp_path / "failures/attempt-11-rank-0.txt~").touch()
    names = [path.name for path in tracebacks(tmp_path)]
    assert names == ["attempt-10-rank-11.txt", "attempt-10-rank-0.txt"]
    last = tmp_path / "failures/attempt-10-rank-0.txt"
    assert [path.name for path in tracebacks(tmp_path, [last])] == ["attempt-10-rank-11.txt"]
    os.utime(tmp_path / "failures/attempt-9-rank-0.txt", (9, 9))  # of another config
    assert [path.name for path in tracebacks(tmp_path)] == ["attempt-9-rank-0.txt"]


def test_a_start_that_fails_before_it_is_counted_keeps_the_traceback_of_the_one_before(
    tmp_path: Path,
) -> None:
    names = []
    for attempt in (1, *[2] * 11):
        name = name_of_start(tmp_path, attempt)
        for rank in range(2):
            _write_traceback(tmp_path, rank, name, ValueError(name))
        names.append(name)
    assert names == ["1", "2", *(f"2.{nth}" for nth in range(2, 12))]
    assert len(list((tmp_path / "failures").iterdir())) == 24
    found = [path.name for path in tracebacks(tmp_path)]
    assert found == ["attempt-2.11-rank-0.txt", "attempt-2.11-rank-1.txt"]
    assert name_of_start(tmp_path, 3) == "3"


def test_a_rank_that_was_taken_over_says_nothing_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(TakenOver), ending_noted(tmp_path, World(), "1"):
        raise TakenOver("by another attempt")
    assert not list(tmp_path.iterdir())


def test_what_follows_from_a_lost_process_group_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), ending_noted(tmp_path, World(rank=1, size=2), "1"):
        raise AssertionError("backend not set")
    assert why_ended(tmp_path, 2) == KILLED


def test_the_first_error_counts_and_the_silent_ranks_are_named(tmp_path: Path) -> None:
    note(tmp_path, 2, "RuntimeError: Connection closed by peer", at=7)
    note(tmp_path, 0, "RuntimeError: Connection reset by peer", at=8)
    lost = " ended without an error; rank 2: RuntimeError: Connection closed by peer"
    assert why_ended(tmp_path, 4) == "rank 1, 3" + lost
    note(tmp_path, 2, "RuntimeError: Connection closed by peer", at=7)
    assert why_ended(tmp_path, 64) == "rank 0, 1, 3, 4, …" + lost
    note(tmp_path, 2, "OSError: No space left on device", at=7)
    assert why_ended(tmp_path, 64) == "rank 2: OSError: No space left on device"
    note(tmp_path, 2, "RuntimeError: CUDA error: an illegal memory access", at=7)
    assert why_ended(tmp_path, 64) == "rank 2: RuntimeError: CUDA error: an illegal memory access"


def test_of_a_lost_connection_gloos_own_words_are_left_out(tmp_path: Path) -> None:
    place = "[/__w/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537]"
    advice = "This is typically caused by a remote worker hanging or bugs in the application. Good"
    error = f"RuntimeError: {place} Read error [127.0.0.1]:3: Connection reset by peer. {advice}"
    leave_note(tmp_path, 0, error, "; see failures/attempt-1-rank-0.txt")
    assert why_ended(tmp_path, 2) == (
        "rank 1 ended without an error; rank 0: RuntimeError: Read error [127.0.0.1]:3: "
        "Connection reset by peer.; see failures/attempt-1-rank-0.txt"
    )
