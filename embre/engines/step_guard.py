"""Decides which updates are skipped: those whose loss or gradient norm is not finite or a spike.

A spike is a loss or gradient norm more than `sigmas` standard deviations above the mean of the last
WINDOW steps (at least MIN_HISTORY), as in OLMo-core's `SkipStepOptimizer`. Spikes enter the history
like other steps, so a lasting change of level is soon accepted.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

WINDOW, MIN_HISTORY = 128, 64
MAX_IN_A_ROW = 3  # skipped updates; more are not due to the data of single steps
SEEN, IN_A_ROW = "guard_seen", "guard_in_a_row"


class Diverged(ArithmeticError):
    """MAX_IN_A_ROW updates in a row were skipped; the newest checkpoint stays valid."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A skipped update: why, the documents of the step, and the number skipped in a row so far."""

    why: str
    doc_ids: tuple[str, ...]
    in_a_row: int


class StepGuard:
    """Judges each step by its loss and global gradient norm, which are the same on every rank.

    If `sigmas` is None, nothing counts as a spike. The history is part of a checkpoint, so that a
    resumed run judges like an undisturbed one.
    """

    def __init__(self, sigmas: float | None = None):
        self.sigmas = sigmas
        self.in_a_row = 0
        self._seen: deque[tuple[float, float]] = deque(maxlen=WINDOW)

    def objection(self, loss: float, norm: float) -> str | None:
        """Why the update of a step must be skipped, or None. Call it once per step."""
        why = self._objection(loss, norm)
        self.in_a_row = self.in_a_row + 1 if why else 0
        if math.isfinite(loss) and math.isfinite(norm):
            self._seen.append((loss, norm))
        return why

    def _objection(self, loss: float, norm: float) -> str | None:
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                return f"the {name} is not finite"
        if self.sigmas is None or len(self._seen) < MIN_HISTORY:
            return None
        deviation, mean = torch.std_mean(torch.tensor(self._seen, dtype=torch.float64), 0)
        limits = (mean + self.sigmas * deviation).tolist()
        for name, value, limit in zip(("loss", "gradient norm"), (loss, norm), limits, strict=True):
            if value > limit:
                return f"a spike: the {name} is {value:.4g}, above {limit:.4g}"
        return None

    def state(self) -> dict[str, Tensor]:
        """The history as tensors."""
        seen = torch.tensor(self._seen, dtype=torch.float64).view(-1, 2)
        return {SEEN: seen, IN_A_ROW: torch.tensor(self.in_a_row)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the history. Raises KeyError if `state` has none."""
        seen = state[SEEN].view(-1, 2).tolist()
        self._seen = deque(((loss, norm) for loss, norm in seen), maxlen=WINDOW)
        self.in_a_row = int(state[IN_A_ROW])
