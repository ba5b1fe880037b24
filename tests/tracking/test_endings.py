"""A rank that fails leaves a note of why; the next start reads it once."""

import os
from pathlib import Path

import pytest

from embre.interrupts import TakenOver
from embre.tracking.endings import ending_noted, why_ended
from embre.world import World

KILLED = "no rank left an error, so one was killed or its machine lost"


def note(folder: Path, rank: int, text: str, at: int) -> None:
    path = folder / f"error-{rank}.txt"
    path.write_text(text)
    os.utime(path, (at, at))


def test_the_error_of_a_rank_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a bad\nshard"), ending_noted(tmp_path, World()):
        raise ValueError("a bad\nshard")
    assert why_ended(tmp_path, 1) == "rank 0: ValueError: a bad shard"
    assert why_ended(tmp_path, 1) == KILLED
    with ending_noted(tmp_path, World()):
        pass
    assert not list(tmp_path.iterdir())


def test_a_rank_that_was_taken_over_says_nothing_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(TakenOver), ending_noted(tmp_path, World()):
        raise TakenOver("by another attempt")
    assert not list(tmp_path.iterdir())


def test_what_follows_from_a_lost_process_group_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), ending_noted(tmp_path, World(rank=1, size=2)):
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
