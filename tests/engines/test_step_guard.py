"""Which steps the guard objects to, and that it remembers across a stop."""

import math

import pytest

from embre.engines.step_guard import MIN_HISTORY, WINDOW, StepGuard


def seasoned(sigmas: float | None = 6.0, steps: int = MIN_HISTORY) -> StepGuard:
    """A guard that has seen losses of 1.9 and 2.1 and norms of 0.9 and 1.1 in turn."""
    guard = StepGuard(sigmas)
    for number in range(steps):
        swing = 0.1 if number % 2 else -0.1
        assert guard.reason_to_skip(2 + swing, 1 + swing) is None
    return guard


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_objected_to_from_the_first_step_on(bad: float) -> None:
    for sigmas in (None, 6.0):
        assert "the loss is not finite" in str(StepGuard(sigmas).reason_to_skip(bad, 1.0))
        assert "the gradient norm is not finite" in str(StepGuard(sigmas).reason_to_skip(1.0, bad))


def test_a_spike_is_so_many_deviations_above_the_mean() -> None:
    deviation = 0.1 * math.sqrt(MIN_HISTORY / (MIN_HISTORY - 1))
    assert seasoned().reason_to_skip(2 + 5.9 * deviation, 1.0) is None
    assert "the loss is 2.61, above 2.605" in str(seasoned().reason_to_skip(2.61, 1.0))
    assert "the gradient norm is 1.62" in str(seasoned().reason_to_skip(2.0, 1.62))
    assert seasoned().reason_to_skip(0.0, 0.0) is None, "a fall is no spike"


def test_without_sigmas_or_with_few_steps_nothing_is_a_spike() -> None:
    assert seasoned(sigmas=None).reason_to_skip(1e6, 1e6) is None
    assert seasoned(steps=MIN_HISTORY - 1).reason_to_skip(1e6, 1e6) is None


def test_a_level_that_has_changed_is_accepted_before_long() -> None:
    guard = seasoned(steps=WINDOW)
    answers = [guard.reason_to_skip(3.5, 1.0) for _ in range(6)]
    assert answers[0] and not answers[-1]


def test_objections_in_a_row_are_counted() -> None:
    guard = StepGuard()
    for loss, count in ((math.nan, 1), (math.nan, 2), (1.0, 0), (math.nan, 1)):
        guard.reason_to_skip(loss, 1.0)
        assert guard.in_a_row == count


def test_a_guard_that_goes_on_from_a_state_judges_alike() -> None:
    guard, other = seasoned(steps=WINDOW + 5), StepGuard(6.0)
    guard.reason_to_skip(math.nan, 1.0)
    other.load_state(guard.state())
    assert other.in_a_row == 1
    for loss in (2.4, 2.7, 2.0, 2.8):
        assert guard.reason_to_skip(loss, 1.0) == other.reason_to_skip(loss, 1.0)
    with pytest.raises(KeyError):
        other.load_state({})
