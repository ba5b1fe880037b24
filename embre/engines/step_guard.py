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

WINDOW, MIN_HISTORY = 128, 64  # steps
MAX_IN_A_ROW = 3  # skipped updates: the data of single steps does not explain more
HISTORY, IN_A_ROW = "guard_seen", "guard_in_a_row"  # names in a checkpoint


class Diverged(ArithmeticError):
    """MAX_IN_A_ROW updates in a row were skipped; the newest checkpoint stays valid."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A skipped update: the reason, the documents of the step on all ranks, and the number of
    updates skipped in a row so far."""

    why: str
    doc_ids: tuple[str, ...]
    in_a_row: int


class StepGuard:
    """Decides by the loss and gradient norm of each step, over all ranks, so that all ranks agree.

    With `sigmas` None only values that are not finite are skipped. The history is saved in
    checkpoints, so that a resumed run decides as an uninterrupted one.
    """

    def __init__(self, sigmas: float | None = None):
        self.sigmas = sigmas
        self.in_a_row = 0
        self._history: deque[tuple[float, float]] = deque(maxlen=WINDOW)

    def reason_to_skip(self, loss: float, norm: float) -> str | None:
        """The reason to skip the update of a step, None to apply it. Call it once per step, with
        the weighted mean loss and the gradient norm before clipping."""
        why = self._reason(loss, norm)
        self.in_a_row = self.in_a_row + 1 if why else 0
        if math.isfinite(loss) and math.isfinite(norm):
            self._history.append((loss, norm))
        return why

    def _reason(self, loss: float, norm: float) -> str | None:
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                return f"the {name} is not finite"
        if self.sigmas is None or len(self._history) < MIN_HISTORY:
            return None
        deviation, mean = torch.std_mean(torch.tensor(self._history, dtype=torch.float64), 0)
        limits = (mean + self.sigmas * deviation).tolist()
        for name, value, limit in zip(("loss", "gradient norm"), (loss, norm), limits, strict=True):
            if value > limit:
                return f"a spike: the {name} is {value:.4g}, above {limit:.4g}"
        return None

    def state(self) -> dict[str, Tensor]:
        """The history as tensors, (steps, 2) losses and gradient norms."""
        history = torch.tensor(self._history, dtype=torch.float64).view(-1, 2)
        return {HISTORY: history, IN_A_ROW: torch.tensor(self.in_a_row)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the history. Raises KeyError if `state` has none."""
        history = state[HISTORY].view(-1, 2).tolist()
        self._history = deque(((loss, norm) for loss, norm in history), maxlen=WINDOW)
        self.in_a_row = int(state[IN_A_ROW])
