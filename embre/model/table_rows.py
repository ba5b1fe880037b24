"""One rank's rows of a sharded concept table, with their gradient and optimizer state.

The rows of each type are distributed round-robin, because the first ones are the most frequent.
They are not part of the model: ZeRO and gradient reduction ignore them, and memory per rank falls
with the number of ranks. A saved state can be loaded on another number of ranks.

Shapes: C dimension; R rows of this rank; V rows of all ranks.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from embre.config import OptimizerConfig
from embre.world import World

ROWS, SQUARES, UPDATES = "table_rows", "table_squares", "table_updates"
INIT_ROWS = 4096  # rows per random draw, so that the values do not depend on the number of ranks
SENT_ROWS = 1 << 16  # rows per broadcast when rank 0 gathers all


class TableRows:
    """This rank's rows in `weight` (R, C); `gradient` (R, C) accumulates until `update`.

    `parts` are this rank's ids by type, `firsts` the first row of each type in `weight`. The update
    is Adam without first moment and with one second moment per row, `squares` (R,), the mean over
    its entries. It is not clipped: a row's step is about the learning rate for any gradient, after
    many steps without gradient at most 1 / sqrt(1 - beta2) times it.
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
        self.parts = [range(world.rank, size, world.size) for size in sizes]
        self.firsts = list(accumulate((len(part) for part in self.parts), initial=0))
        self.weight = torch.empty(self.firsts[-1], dimension, device=world.device)
        self.gradient = torch.zeros_like(self.weight)
        self.squares = self.weight.new_zeros(len(self.weight))
        for number, size in enumerate(sizes):
            self._initialize(number, size, seed)

    def update(self, lr: float, scale: float) -> None:
        """Update the rows with the accumulated gradient times `scale`, then zero the gradient."""
        # As few passes over the table as possible; per-row vectors cost little beside them.
        beta, epsilon = self.optimizer.beta2, self.optimizer.epsilon
        self.updates += 1
        length = torch.linalg.vector_norm(self.gradient, dim=1)
        self.squares.lerp_(length.square_().mul_(scale**2 / self.gradient.shape[1]), 1 - beta)
        rate = (self.squares / (1 - beta**self.updates)).sqrt_().add_(epsilon)
        rate = rate.reciprocal_().mul_(-lr * scale)
        self.weight.mul_(1 - lr * self.optimizer.weight_decay)
        self.weight.addcmul_(self.gradient, rate[:, None])
        self.zero_gradient()

    def zero_gradient(self) -> None:
        """Zero the accumulated gradient without an update."""
        self.gradient.zero_()

    def state(self) -> dict[str, Tensor]:
        """Rows and second moments on the CPU, keyed by type number / first id / id step."""
        state: dict[str, Tensor] = {}
        for number, (part, first) in enumerate(zip(self.parts, self.firsts, strict=False)):
            rows = slice(first, first + len(part))
            if part:
                place = f"{number}/{part.start}/{part.step}"
                state[f"{ROWS}/{place}"] = self.weight[rows].to("cpu", copy=True)
                state[f"{SQUARES}/{place}"] = self.squares[rows].to("cpu", copy=True)
        if self.world.rank == 0:
            state[UPDATES] = torch.tensor(self.updates)
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load this rank's rows from the merged states of any number of ranks.

        Raises KeyError if rows are missing.
        """
        self.updates = int(state[UPDATES])
        left = 2 * len(self.weight)
        for name in state:
            kind, *place = name.split("/")
            if kind in (ROWS, SQUARES):
                number, start, step = map(int, place)
                target = self.weight if kind == ROWS else self.squares
                left -= self._put(
                    target, number, range(start, self.sizes[number], step), state[name]
                )
        if left:
            raise KeyError(f"the state lacks {left} rows of the concept table")

    def whole(self) -> Tensor:
        """Gather all rows: (V, C) on the CPU of rank 0, (0, C) on other ranks. A collective."""
        dimension = self.weight.shape[1]
        found = torch.empty(sum(self.sizes) if self.world.rank == 0 else 0, dimension)
        first_of_type = 0
        for number, size in enumerate(self.sizes):
            for rank in range(self.world.size):
                part = range(rank, size, self.world.size)
                for at in range(0, len(part), SENT_ROWS):
                    ids = part[at : at + SENT_ROWS]
                    rows = self.weight.new_empty(len(ids), dimension)
                    if rank == self.world.rank:
                        first = self.firsts[number] + at
                        rows.copy_(self.weight[first : first + len(ids)])
                    if self.world.size > 1:
                        dist.broadcast(rows, rank)
                    if self.world.rank == 0:
                        found[first_of_type + ids.start : first_of_type + ids.stop : ids.step] = (
                            rows
                        )
            first_of_type += size
        return found

    def _initialize(self, number: int, size: int, seed: int) -> None:
        """Initialize this rank's rows of a type; values do not depend on the number of ranks."""
        dimension = self.weight.shape[1]
        for block in range(-(-size // INIT_ROWS)):
            generator = torch.Generator().manual_seed((seed * 64 + number) * (1 << 20) + block)
            drawn = torch.randn(INIT_ROWS, dimension, generator=generator) * dimension**-0.5
            ids = range(block * INIT_ROWS, min(size, (block + 1) * INIT_ROWS))
            self._put(self.weight, number, ids, drawn[: len(ids)])

    def _put(self, target: Tensor, number: int, ids: range, values: Tensor) -> int:
        """Copy the values of those ids that this rank holds; returns their number."""
        part, first = self.parts[number], self.firsts[number]
        among = torch.arange(ids.start, ids.stop, ids.step)
        mine = (among - part.start) % part.step == 0
        rows = first + (among[mine] - part.start) // part.step
        target[rows.to(target.device)] = values[mine].to(target)
        return len(rows)
