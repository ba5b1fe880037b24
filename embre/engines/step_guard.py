"""Which updates are left out: those whose loss or gradient is not finite or a spike.

A spike is a loss or a gradient norm above the mean of the steps before by more than so many
standard deviations, as in OLMo-core's `SkipStepOptimizer`: 128 steps, at least 64, and a spike is
remembered like every other step. So a level that has really changed is accepted before long.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

WINDOW, MIN_HISTORY = 128, 64
MAX_IN_A_ROW = 3  # after so many it is not the data
SEEN, IN_A_ROW = "guard_seen", "guard_in_a_row"


class Diverged(ArithmeticError):
    """Several steps one after the other were left out; what counts is the newest checkpoint."""


@dataclass(frozen=True, slots=True)
class Skip:
    """An update that was left out: why, the documents of the step, and how many in a row."""

    why: str
    doc_ids: tuple[str, ...]
    in_a_row: int


class StepGuard:
    """Judges each step by its loss and the global gradient norm, which every rank knows alike.

    Without `sigmas` there are no spikes. What it remembers is part of a checkpoint, or a run that
    was stopped would judge otherwise than one that was not.
    """

    def __init__(self, sigmas: float | None = None):
        self.sigmas = sigmas
        self.in_a_row = 0
        self._seen: deque[tuple[float, float]] = deque(maxlen=WINDOW)

    def objection(self, loss: float, norm: float) -> str | None:
        """Why the update of a step is to be left out, or None; called once for each step."""
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
        """What it remembers, as tensors."""
        seen = torch.tensor(self._seen, dtype=torch.float64).view(-1, 2)
        return {SEEN: seen, IN_A_ROW: torch.tensor(self.in_a_row)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Remember what `state` says; KeyError where it says nothing."""
        seen = state[SEEN].view(-1, 2).tolist()
        self._seen = deque(((loss, norm) for loss, norm in seen), maxlen=WINDOW)
        self.in_a_row = int(state[IN_A_ROW])
