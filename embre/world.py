"""The processes of a run: rank, size, device, and the collectives between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # new name, old name


@dataclass(frozen=True, slots=True)
class World:
    """One process of a run. `World()` is a run of a single process, which needs no backend."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    def all_reduce(self, values: list[float]) -> list[float]:
        """Element-wise sum over all ranks in float64, the same on every rank. A collective."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def all_gather(self, value: Any) -> list[Any]:
        """Every rank's object (pickled), in rank order, on every rank. A collective."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered

    def barrier(self) -> None:
        """Wait until every rank has called it."""
        if self.size > 1:
            dist.barrier()


def allocator_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of torch's GPU allocator, to be set before CUDA is initialised.

    Those of `environ` if it has any, else expandable segments: the number of targets differs
    between micro-batches, which would fragment fixed segments.
    """
    given = {name: environ[name] for name in ALLOCATOR_VARIABLES if name in environ}
    return given or {ALLOCATOR_VARIABLES[0]: "expandable_segments:True"}


def current_world(device: torch.device) -> World:
    """The world of an initialised process group, or a world of one."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), device)
    return World(device=device)
