"""Requests to stop or to save, by SIGTERM and by files."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from embre import interrupts
from embre.interrupts import (
    SAVE,
    STOP,
    clear,
    is_stop_in,
    request_save,
    sigterm_noticed,
    stop_requested,
    stoppable,
    take_save_request,
    watch,
)


@pytest.fixture(autouse=True)
def undisturbed(tmp_path: Path) -> Iterator[None]:
    yield
    clear(tmp_path)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_stops_this_process_and_all_ranks_that_watch_the_folder(tmp_path: Path) -> None:
    with stoppable(tmp_path):
        assert not stop_requested()
        terminate()
        assert stop_requested() and (tmp_path / STOP).read_bytes()
    assert not stop_requested() and not (tmp_path / STOP).exists()


def test_a_second_sigterm_ends_the_process_and_the_handler_before_comes_back(
    tmp_path: Path,
) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with stoppable(tmp_path):
            terminate()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        terminate()
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_sigterm_before_there_are_ranks_is_passed_on_to_them(tmp_path: Path) -> None:
    with sigterm_noticed():
        with stoppable(tmp_path):
            assert not stop_requested() and not is_stop_in(tmp_path)
        terminate()
        with stoppable(tmp_path):
            assert stop_requested() and is_stop_in(tmp_path)
    assert not stop_requested()


def test_a_rank_reads_stop_requests_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "LOOK_EVERY_S", -1.0)
    watch(tmp_path)
    (tmp_path / STOP).touch()
    assert not stop_requested(), "the file alone asks nothing"
    (tmp_path / STOP).write_bytes(b".")
    assert stop_requested()
    watch(tmp_path)
    assert stop_requested(), "nor is it forgotten by a rank that is started again"


def test_an_old_request_does_not_stop_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "LOOK_EVERY_S", -1.0)
    (tmp_path / STOP).write_bytes(b".")
    with stoppable(tmp_path):
        watch(tmp_path)
        assert not stop_requested()


def test_both_files_exist_before_ranks_read_them(tmp_path: Path) -> None:
    with stoppable(tmp_path):
        assert [(tmp_path / name).read_bytes() for name in (STOP, SAVE)] == [b"", b""]
    assert not list(tmp_path.iterdir())


def test_each_save_request_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "LOOK_EVERY_S", -1.0)
    watch(tmp_path)
    assert not take_save_request()
    request_save(tmp_path)
    assert [take_save_request() for _ in range(3)] == [True, False, False]
    assert not stop_requested()
    request_save(tmp_path)
    request_save(tmp_path)
    assert [take_save_request() for _ in range(3)] == [True, False, False]


def test_stop_requested_does_not_read_save_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "LOOK_EVERY_S", -1.0)
    watch(tmp_path)
    read: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "_num_requests", lambda file: read.append(file.name) or 0)
        assert not stop_requested() and not stop_requested()
    assert read == [STOP, STOP], "rank 0 alone looks at the other"


def test_a_restarted_rank_ignores_old_save_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "LOOK_EVERY_S", -1.0)
    request_save(tmp_path)
    watch(tmp_path)
    assert not take_save_request()
    request_save(tmp_path)
    assert take_save_request(), "a new one is answered"


def test_the_next_command_clears_save_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "LOOK_EVERY_S", -1.0)
    request_save(tmp_path)
    with stoppable(tmp_path):
        assert not (tmp_path / SAVE).read_bytes()
        watch(tmp_path)
        request_save(tmp_path)
        assert take_save_request()
    assert not (tmp_path / SAVE).exists()
