"""A concept table sharded over ranks: each rank scores the mentions of all ranks with its rows.

    vectors of all ranks ─▶ partial log-sum-exp of each rank's rows ─▶ all-reduce ─▶ loss
    gradients of a rank's rows stay on it; gradients of the vectors are summed over ranks

Communication is proportional to the hidden mentions of a micro-batch, not to the table: its
gradient is never reduced (Partial FC: An et al., arXiv 2203.15565).

Shapes: K mentions of this rank in the vocabulary, N of all ranks, both sorted by type; C dimension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from embre.model.chunked_softmax import ScoringBlock, gradients, num_ranked_above, score
from embre.model.concept_table import draw, draw_seed
from embre.model.table_rows import TableRows
from embre.world import World


@dataclass(frozen=True, slots=True)
class GatheredMentions:
    """The mentions of all ranks, sorted by type: `vectors` (N, C), `ids` (N,), `owners` (N,) their
    ranks; `mine` (K,) indices of this rank's mentions; `counts` [rank][type]; `seeds` [rank] of the
    samples."""

    vectors: Tensor
    ids: Tensor
    owners: Tensor
    mine: Tensor
    counts: list[list[int]]
    seeds: list[int]


class ShardedTable:
    """A ConceptTable whose rows are distributed over ranks. All methods are collectives.

    The weights are in `rows`, which the engine updates and saves.
    """

    def __init__(self, rows: TableRows, sample_above: int, sample_share: float):
        self.rows = rows
        self.dimension = rows.weight.shape[1]
        self.sample_above, self.sample_share = sample_above, sample_share

    def __call__(
        self, projected_KC: Tensor, ids_K: Tensor, counts: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """As ConceptTable: summed loss of this rank's mentions, and (K,) ranks or None."""
        if torch.is_grad_enabled():
            loss = _AcrossRanks.apply(projected_KC, ids_K, counts, self)
            assert isinstance(loss, Tensor)
            return loss, None
        gathered = gather(self.rows.world, projected_KC, ids_K, counts, seed=0)
        blocks = list(self.blocks(gathered, sampled=False))
        label, log_sums = self.score(gathered, blocks)
        above = num_ranked_above(gathered.vectors, self.rows.weight, blocks, label)
        all_reduce_sum_(self.rows.world, above)
        return (log_sums - label)[gathered.mine].sum(), above[gathered.mine] + 1

    def score(
        self, gathered: GatheredMentions, blocks: Sequence[ScoringBlock]
    ) -> tuple[Tensor, Tensor]:
        """(N,) logit of each label, and (N,) log-sum-exp over the rows of all ranks."""
        others, label = score(gathered.vectors, self.rows.weight, blocks)
        all_reduce_sum_(self.rows.world, label)
        others = all_gather(self.rows.world, others[None]).logsumexp(0)
        return label, torch.logaddexp(others, label)

    def blocks(self, gathered: GatheredMentions, sampled: bool) -> Iterator[ScoringBlock]:
        """Yield the scoring blocks of each type: all mentions against this rank's rows, or, for a
        sampled type, each rank's mentions against this rank's part of that rank's sample."""
        end = 0
        for number, size in enumerate(self.rows.sizes):
            by_rank = [counts[number] for counts in gathered.counts]
            begin, end = end, end + sum(by_rank)
            if sampled and size > self.sample_above:
                for seed, count in zip(gathered.seeds, by_rank, strict=True):
                    if count:
                        yield self._sample(gathered, number, slice(begin, begin + count), seed)
                    begin += count
            elif begin < end:
                yield self._against_all(gathered, number, slice(begin, end))

    def _against_all(self, gathered: GatheredMentions, number: int, vectors: slice) -> ScoringBlock:
        part, first = self.rows.parts[number], self.rows.firsts[number]
        labels = gathered.ids[vectors]
        columns = torch.where(labels % part.step == part.start, labels // part.step, -1)
        return ScoringBlock(vectors, slice(first, first + len(part)), columns)

    def _sample(
        self, gathered: GatheredMentions, number: int, vectors: slice, seed: int
    ) -> ScoringBlock:
        part, first = self.rows.parts[number], self.rows.firsts[number]
        labels = gathered.ids[vectors]
        size = self.rows.sizes[number]
        names, shifts, columns = draw(size, self.sample_share, seed + number, labels)
        if part.step > 1:  # a single rank holds all rows and skips the device synchronization
            here = names % part.step == part.start
            columns = torch.where(here[columns], here.cumsum(0)[columns] - 1, -1)
            names, shifts = names[here], shifts[here]
        return ScoringBlock(vectors, names // part.step + first, columns, shifts)


class _AcrossRanks(torch.autograd.Function):
    """Summed loss of this rank's mentions; backward adds to `rows.gradient` in place."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        projected_KC: Tensor,
        ids_K: Tensor,
        counts: Sequence[int],
        table: ShardedTable,
    ) -> Tensor:
        gathered = gather(table.rows.world, projected_KC, ids_K, counts, draw_seed())
        blocks = list(table.blocks(gathered, sampled=True))
        label, log_sums = table.score(gathered, blocks)
        ctx.kept = table.rows, gathered, blocks, label, log_sums  # type: ignore[attr-defined]
        return (log_sums - label)[gathered.mine].sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        rows, gathered, blocks, label, log_sums = ctx.kept  # type: ignore[attr-defined]
        weights = all_gather(rows.world, gradient.reshape(1))[gathered.owners]
        by_vectors = gradients(
            gathered.vectors, rows.weight, blocks, label, log_sums, weights, rows.gradient
        )
        all_reduce_sum_(rows.world, by_vectors)
        return by_vectors[gathered.mine], None, None, None


def gather(
    world: World, projected_KC: Tensor, ids_K: Tensor, counts: Sequence[int], seed: int
) -> GatheredMentions:
    """Gather the mentions of all ranks, sorted by type; `seed` is that of this rank's sample."""
    by_rank = torch.tensor([[seed, *counts]])
    if world.size > 1:  # a single rank skips the device synchronization
        by_rank = all_gather(world, by_rank.to(projected_KC.device)).cpu()
    seeds, by_rank = by_rank[:, 0], by_rank[:, 1:]
    sizes = by_rank.sum(1)
    size = max(int(sizes.max()), 1)
    vectors = projected_KC.new_zeros(1, size, projected_KC.shape[1])
    vectors[0, : len(projected_KC)] = projected_KC
    ids = ids_K.new_zeros(1, size)
    ids[0, : len(ids_K)] = ids_K
    # Reorder from by-rank to by-type, stable in the order of ranks.
    types = torch.arange(len(counts)).repeat(world.size).repeat_interleave(by_rank.flatten())
    owners = torch.arange(world.size).repeat_interleave(sizes)
    positions = torch.cat([rank * size + torch.arange(n) for rank, n in enumerate(sizes.tolist())])
    order = types.argsort(stable=True)
    mine = (owners[order] == world.rank).nonzero()[:, 0]
    positions, owners, mine = (
        part.to(ids.device, non_blocking=True) for part in (positions[order], owners[order], mine)
    )
    return GatheredMentions(
        vectors=all_gather(world, vectors).flatten(0, 1)[positions],
        ids=all_gather(world, ids).flatten()[positions],
        owners=owners,
        mine=mine,
        counts=by_rank.tolist(),
        seeds=seeds.tolist(),
    )


def all_gather(world: World, mine: Tensor) -> Tensor:
    """(ranks, …) the tensors (1, …) of all ranks, which have equal shapes."""
    if world.size == 1:
        return mine
    gathered = mine.new_empty(world.size, *mine.shape[1:])
    dist.all_gather_into_tensor(gathered, mine.contiguous())
    return gathered


def all_reduce_sum_(world: World, values: Tensor) -> None:
    """Sum over ranks, in place."""
    if world.size > 1:
        dist.all_reduce(values)
