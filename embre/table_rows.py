"""The rows of a concept table that one rank holds, with their gradient and their optimizer.

The rows of each type are cut in equal parts, rank after rank. No engine, no ZeRO and no reduction
over ranks sees them: memory falls as ranks grow. What is kept can be cut anew for other ranks.

Shapes: C dimension; R rows of this rank; V of all.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from embre.config import OptimizerConfig
from embre.world import World

ROWS, SQUARES, UPDATES = "table_rows", "table_squares", "table_updates"
INIT_ROWS = 4096  # drawn together, so that any rank can begin with its part
UPDATE_ROWS = 1 << 16  # at a time, which bounds what an update needs beside the table


class TableRows:
    """This rank's rows of each type in `weight` (R, C); `gradient` (R, C) gathers until an update.

    `parts` are the ids that it holds of each type, `firsts` where these begin in `weight`. The
    update is Adam's without the first moment and with one second moment for a row, the mean over
    its numbers (`squares`). It is not clipped: a row's step is as long as the rate, whatever its
    gradient.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        dimension: int,
        world: World,
        optimizer: OptimizerConfig,
        seed: int,
    ):
        self.sizes = tuple(sizes)
        self.world, self.optimizer, self.updates = world, optimizer, 0
        self.parts = [part_of(size, world.rank, world.size) for size in sizes]
        self.firsts = list(accumulate((len(part) for part in self.parts), initial=0))
        self.weight = torch.empty(self.firsts[-1], dimension, device=world.device)
        self.gradient = torch.zeros_like(self.weight)
        self.squares = self.weight.new_zeros(len(self.weight))
        for number, part in enumerate(self.parts):
            self._begin(number, part, seed)

    def update(self, lr: float, scale: float) -> None:
        """One step by the gradient gathered since the last, times `scale`."""
        beta, epsilon = self.optimizer.beta2, self.optimizer.epsilon
        self.updates += 1
        for first in range(0, len(self.weight), UPDATE_ROWS):
            rows = slice(first, first + UPDATE_ROWS)
            gradient = self.gradient[rows].mul_(scale)
            squares = self.squares[rows]
            squares.lerp_(gradient.square().mean(1), 1 - beta)
            length = (squares / (1 - beta**self.updates)).sqrt_().add_(epsilon)
            self.weight[rows].mul_(1 - lr * self.optimizer.weight_decay)
            self.weight[rows].sub_(gradient.div_(length[:, None]).mul_(lr))
        self.gradient.zero_()

    def state(self) -> dict[str, Tensor]:
        """Rows and second moments by type and first row, copied to the CPU."""
        found: dict[str, Tensor] = {}
        for number, (part, first) in enumerate(zip(self.parts, self.firsts, strict=False)):
            rows = slice(first, first + len(part))
            if part:
                found[f"{ROWS}/{number}/{part.start}"] = self.weight[rows].to("cpu", copy=True)
                found[f"{SQUARES}/{number}/{part.start}"] = self.squares[rows].to("cpu", copy=True)
        if self.world.rank == 0:
            found[UPDATES] = torch.tensor(self.updates)
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take this rank's rows out of the parts of all ranks, of however many.

        Raises KeyError where some are not there.
        """
        self.updates = int(state[UPDATES])
        left = 2 * len(self.weight)
        for name in state:
            kind, *place = name.split("/")
            if kind in (ROWS, SQUARES):
                number, stored = map(int, place)
                target = self.weight if kind == ROWS else self.squares
                left -= self._put(target, number, stored, state[name])
        if left:
            raise KeyError(f"the state lacks {left} rows of the concept table")

    def whole(self) -> Tensor:
        """(V, C) all rows on the CPU of rank 0, (0, C) elsewhere; every rank calls it."""
        found = [torch.empty(0, self.weight.shape[1])]
        for number, size in enumerate(self.sizes):
            for rank in range(self.world.size):
                part = part_of(size, rank, self.world.size)
                for at in range(0, len(part), UPDATE_ROWS):
                    num_rows = min(UPDATE_ROWS, len(part) - at)
                    rows = self.weight.new_empty(num_rows, self.weight.shape[1])
                    if rank == self.world.rank:
                        first = self.firsts[number] + at
                        rows.copy_(self.weight[first : first + num_rows])
                    if self.world.size > 1:
                        dist.broadcast(rows, rank)
                    if self.world.rank == 0:
                        found.append(rows.cpu())
        return torch.cat(found)

    def _begin(self, number: int, part: range, seed: int) -> None:
        """Draw this rank's rows of a type; all ranks together have what one alone would have."""
        dimension = self.weight.shape[1]
        for block in range(part.start // INIT_ROWS, -(-part.stop // INIT_ROWS) if part else 0):
            generator = torch.Generator().manual_seed((seed * 64 + number) * (1 << 20) + block)
            drawn = torch.randn(INIT_ROWS, dimension, generator=generator) * dimension**-0.5
            self._put(self.weight, number, block * INIT_ROWS, drawn)

    def _put(self, target: Tensor, number: int, stored: int, values: Tensor) -> int:
        """Copy what this rank holds of rows that begin at `stored`; how many they are."""
        part, first = self.parts[number], self.firsts[number]
        start, stop = max(part.start, stored), min(part.stop, stored + len(values))
        if start >= stop:
            return 0
        rows = slice(first + start - part.start, first + stop - part.start)
        target[rows] = values[start - stored : stop - stored].to(target)
        return stop - start


def part_of(size: int, rank: int, num_ranks: int) -> range:
    """The ids of a type that a rank holds.

    >>> [part_of(10, rank, 3) for rank in range(3)]
    [range(0, 3), range(3, 6), range(6, 10)]
    """
    return range(size * rank // num_ranks, size * (rank + 1) // num_ranks)
