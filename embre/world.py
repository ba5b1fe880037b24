"""Who am I among the processes of a run: rank and size, and how ranks add up and wait."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

# Memory of CUDA that grows where it lies: the numbers of targets differ from strip to strip, and
# pieces of fixed sizes would be left between. Told before CUDA is touched; a user's own wins.
ALLOCATOR, GROWING = "PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"


@dataclass(frozen=True, slots=True)
class World:
    """One process of a run. `World()` is a run of a single process, which needs no backend."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    def all_reduce(self, values: list[float]) -> list[float]:
        """The element-wise sum over all ranks, the same on every rank."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def all_gather(self, value: Any) -> list[Any]:
        """What every rank passed, in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered

    def barrier(self) -> None:
        """Return when every rank is here."""
        if self.size > 1:
            dist.barrier()


def current_world(device: torch.device) -> World:
    """The world of an initialised process group, or a world of one."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), device)
    return World(device=device)
