"""The Engine protocol, its micro-batches and the result of a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from embre.engines.step_guard import Skip
from embre.world import World


class MicroBatch(Protocol):
    """A micro-batch, as far as an engine uses it."""

    @property
    def slot(self) -> int:
        """Index of the micro-batch in its step, over all ranks; negative for an empty one."""
        ...

    @property
    def counts(self) -> dict[str, int]:
        """Number of targets by loss name."""
        ...

    @property
    def num_tokens(self) -> int:
        """Number of tokens, without padding."""
        ...

    @property
    def data_hash(self) -> int:
        """32-bit hash of the contents; 0 for an empty one."""
        ...

    @property
    def doc_ids(self) -> tuple[str, ...]:
        """Identifiers of its documents."""
        ...

    def to(self, device: torch.device) -> Any:
        """A copy on `device`."""
        ...


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of a step, the same on every rank.

    `losses` are means over targets, by loss name, of those with targets; `grad_norm` is the global
    L2 norm before clipping, `num_tokens` the tokens of all ranks. `data_hash` is the sum of the
    micro-batches' hashes: runs with equal sums have seen the same texts with the same masks. `stop`
    and `save` are requests to stop (any rank) and to save (rank 0). `skip` is set if the update
    was skipped.
    """

    losses: dict[str, float]
    grad_norm: float
    num_tokens: int
    data_hash: int
    stop: bool
    save: bool = False
    skip: Skip | None = None


class Engine(Protocol):
    """Carries out optimizer steps and keeps their state."""

    world: World

    @property
    def module(self) -> nn.Module:
        """The model, unwrapped."""
        ...

    def step(self, micro_batches: Sequence[MicroBatch], step: int, lr: float) -> StepResult:
        """One update over all ranks' micro-batches, skipped if the guard objects; a collective."""
        ...

    def state(self) -> dict[str, Tensor]:
        """This rank's share of weights and optimizer state, copied to the CPU; a collective."""
        ...

    def checksum(self) -> int:
        """Checksum of the replicated weights, the same on every rank; 0 under ZeRO-3."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the whole state: the merged shares of all ranks, of any number."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The full weights on the CPU; a collective: every rank calls it, rank 0 uses them."""
        ...
