"""Goodput is the share of the time whose steps were kept."""

from typing import Any

import pytest

from embre.tracking.goodput import goodput, lost_by_restart


def event(name: str, step: int, time: float, seconds: float = 0.0) -> dict[str, Any]:
    return {"event": name, "step": step, "time": time, "seconds": seconds}


WHOLE = [event("started", 0, 100), event("step", 10, 110, 9), event("step", 20, 120, 9)]


def test_a_run_without_a_restart_loses_its_start_alone() -> None:
    assert goodput(WHOLE) == pytest.approx(18 / 20)


def test_steps_that_are_done_again_do_not_count() -> None:
    again = [event("started", 15, 140), event("step", 20, 146, 5), event("finished", 20, 150)]
    # 9 s for 10 steps, half of 9 s for the 5 that were kept of the next 10, 5 s for the rest.
    assert goodput([*WHOLE, *again]) == pytest.approx((9 + 4.5 + 5) / 50)


def test_a_restart_behind_all_windows_leaves_nothing_of_them() -> None:
    assert goodput([*WHOLE, event("started", 0, 130)]) == 0


def test_nothing_trained_is_nothing_gained() -> None:
    assert goodput([]) == goodput([event("started", 0, 5)]) == 0


def test_a_restart_says_what_it_costs() -> None:
    assert lost_by_restart([], 0, 5.0) == {"attempt": 1, "lost_steps": 0, "down_s": 0.0}
    # What the start itself says before its first step is no sign of life of the attempt before.
    early = ("vocabulary", 0), ("checkpoint_skipped", 20), ("changed", 20), ("waiting", 20)
    said = [event(name, step, 131) for name, step in early]
    found = lost_by_restart([*WHOLE, *said], 15, 132.0)
    assert found == {"attempt": 2, "lost_steps": 5, "down_s": 12.0}
    third = [*WHOLE, event("started", 15, 140), event("step", 17, 150)]
    heartbeat = event("step", 20, 125)  # of the first attempt
    found = lost_by_restart([*third, heartbeat], 15, 160.0)
    assert found == {"attempt": 3, "lost_steps": 2, "down_s": 10.0}


def test_the_time_in_which_a_run_was_finished_is_not_lost() -> None:
    more = [event("finished", 20, 120), event("started", 20, 1020), event("step", 30, 1030, 9)]
    whole = [*WHOLE, *more]
    assert goodput(whole) == pytest.approx(27 / 30)
