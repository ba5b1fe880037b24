"""The Engine protocol, what it is given and what it says of a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from embre.engines.step_guard import Skip
from embre.world import World


class MicroBatch(Protocol):
    """What an engine needs to know of a micro-batch: its slot in the step and its targets.

    `data_hash` is 32 bits of what is in it, 0 for an empty one, `doc_ids` the documents.
    """

    @property
    def slot(self) -> int: ...

    @property
    def counts(self) -> dict[str, int]: ...

    @property
    def num_tokens(self) -> int: ...

    @property
    def data_hash(self) -> int: ...

    @property
    def doc_ids(self) -> tuple[str, ...]: ...

    def to(self, device: torch.device) -> Any: ...


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did, the same on every rank.

    `losses` are means over the targets of each kind that has some, `grad_norm` the global L2 norm
    before clipping, `num_tokens` the tokens of all ranks. `data_hash` is the sum of the
    micro-batches' hashes: two runs with equal ones have seen the same texts, masked alike. `stop`
    says that a rank was asked to stop, `save` that rank 0 was asked to save. `skip` says why no
    update was made, where none was.
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
        """One update over all ranks' micro-batches, or none where the guard objects."""
        ...

    def state(self) -> dict[str, Tensor]:
        """This rank's share of weights and optimizer state, copied to the CPU; a collective."""
        ...

    def checksum(self) -> int:
        """Of the weights that every rank has in full, so the same on all; 0 under ZeRO-3."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up the whole state: the shares of all ranks, of however many."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The full weights on the CPU; a collective: every rank calls it, rank 0 gets them."""
        ...
