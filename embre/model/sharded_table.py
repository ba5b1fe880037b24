"""The concept table for millions of concepts: each rank scores the mentions of all by its rows.

    vectors of all ranks ─▶ what each rank's rows say ─▶ sums over ranks ─▶ loss
    the gradient of a rank's rows stays on it; that of the vectors is summed over ranks

What ranks pass on is as large as the hidden mentions of a micro-batch and not as the table, and no
gradient of the table is ever reduced (Partial FC: An et al., arXiv 2203.15565).

Shapes: K mentions of this rank in the vocabulary, N of all ranks, both sorted by type; C dimension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from embre.model.chunked_softmax import Contest, gradients, num_above, score
from embre.model.concept_table import draw, draw_seed
from embre.model.table_rows import TableRows
from embre.world import World


@dataclass(frozen=True, slots=True)
class Everyone:
    """The mentions of all ranks: `vectors` (N, C), `ids` (N,), `owners` (N,) their ranks; `mine`
    (K,) which are this rank's; `counts` [rank][type] and the `seeds` of their samples."""

    vectors: Tensor
    ids: Tensor
    owners: Tensor
    mine: Tensor
    counts: list[list[int]]
    seeds: list[int]


class ShardedTable:
    """What ConceptTable is, over rows that the ranks share. Every rank calls everything together.

    Its weights are in `rows`, which an engine updates and keeps.
    """

    def __init__(self, rows: TableRows, sample_above: int, sample_share: float):
        self.rows = rows
        self.dimension = rows.weight.shape[1]
        self.sample_above, self.sample_share = sample_above, sample_share

    def __call__(
        self, found_KC: Tensor, ids_K: Tensor, counts: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """What ConceptTable gives: the summed loss of this rank's mentions, and their ranks."""
        if torch.is_grad_enabled():
            loss = _AcrossRanks.apply(found_KC, ids_K, counts, self)
            assert isinstance(loss, Tensor)
            return loss, None
        everyone = gather(self.rows.world, found_KC, ids_K, counts, seed=0)
        contests = list(self.contests(everyone, sampled=False))
        label, log_sums = self.score(everyone, contests)
        above = num_above(everyone.vectors, self.rows.weight, contests, label)
        add_up(self.rows.world, above)
        return (log_sums - label)[everyone.mine].sum(), above[everyone.mine] + 1

    def score(self, everyone: Everyone, contests: Sequence[Contest]) -> tuple[Tensor, Tensor]:
        """(N,) the logit of each label, and the log-sum-exp over the rows of all ranks."""
        others, label = score(everyone.vectors, self.rows.weight, contests)
        add_up(self.rows.world, label)
        others = of_all_ranks(self.rows.world, others[None]).logsumexp(0)
        return label, torch.logaddexp(others, label)

    def contests(self, everyone: Everyone, sampled: bool) -> Iterator[Contest]:
        """All mentions of each type against this rank's rows of it; of a large type, each rank's
        mentions against what this rank holds of that rank's sample."""
        end = 0
        for number, size in enumerate(self.rows.sizes):
            by_rank = [counts[number] for counts in everyone.counts]
            begin, end = end, end + sum(by_rank)
            if sampled and size > self.sample_above:
                for seed, count in zip(everyone.seeds, by_rank, strict=True):
                    if count:
                        yield self._sample(everyone, number, slice(begin, begin + count), seed)
                    begin += count
            elif begin < end:
                yield self._against_all(everyone, number, slice(begin, end))

    def _against_all(self, everyone: Everyone, number: int, vectors: slice) -> Contest:
        part, first = self.rows.parts[number], self.rows.firsts[number]
        labels = everyone.ids[vectors]
        names = torch.arange(part.start, part.stop, part.step, device=labels.device)
        rows = slice(first, first + len(part))
        return Contest(vectors, rows, names, labels, self._rows_of(labels, number))

    def _sample(self, everyone: Everyone, number: int, vectors: slice, seed: int) -> Contest:
        part, first = self.rows.parts[number], self.rows.firsts[number]
        labels = everyone.ids[vectors]
        size = self.rows.sizes[number]
        names, shifts = draw(size, self.sample_share, seed + number, labels)
        if part.step > 1:  # one rank alone has all, and does not wait for its device to say so
            here = names % part.step == part.start
            names, shifts = names[here], shifts[here]
        rows = names // part.step + first
        return Contest(vectors, rows, names, labels, self._rows_of(labels, number), shifts)

    def _rows_of(self, labels: Tensor, number: int) -> Tensor:
        part, first = self.rows.parts[number], self.rows.firsts[number]
        here = labels % part.step == part.start
        return torch.where(here, labels // part.step + first, -1)


class _AcrossRanks(torch.autograd.Function):
    """The summed loss of this rank's mentions; the backward pass adds to the gradient of rows."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        found_KC: Tensor,
        ids_K: Tensor,
        counts: Sequence[int],
        table: ShardedTable,
    ) -> Tensor:
        everyone = gather(table.rows.world, found_KC, ids_K, counts, draw_seed())
        contests = list(table.contests(everyone, sampled=True))
        label, log_sums = table.score(everyone, contests)
        ctx.kept = table.rows, everyone, contests, label, log_sums  # type: ignore[attr-defined]
        return (log_sums - label)[everyone.mine].sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        rows, everyone, contests, label, log_sums = ctx.kept  # type: ignore[attr-defined]
        weights = of_all_ranks(rows.world, gradient.reshape(1))[everyone.owners]
        by_vectors = gradients(
            everyone.vectors, rows.weight, contests, label, log_sums, weights, rows.gradient
        )
        add_up(rows.world, by_vectors)
        return by_vectors[everyone.mine], None, None, None


def gather(
    world: World, found_KC: Tensor, ids_K: Tensor, counts: Sequence[int], seed: int
) -> Everyone:
    """The mentions of all ranks, by type; `seed` is what this rank draws its sample from."""
    by_rank = torch.tensor([[seed, *counts]])
    if world.size > 1:  # one rank alone knows it, and does not wait for its device to say so
        by_rank = of_all_ranks(world, by_rank.to(found_KC.device)).cpu()
    seeds, by_rank = by_rank[:, 0], by_rank[:, 1:]
    sizes = by_rank.sum(1)
    longest = max(int(sizes.max()), 1)
    vectors = found_KC.new_zeros(1, longest, found_KC.shape[1])
    vectors[0, : len(found_KC)] = found_KC
    ids = ids_K.new_zeros(1, longest)
    ids[0, : len(ids_K)] = ids_K
    # Rank after rank becomes type after type, the order of ranks kept in each.
    types = torch.arange(len(counts)).repeat(world.size).repeat_interleave(by_rank.flatten())
    owners = torch.arange(world.size).repeat_interleave(sizes)
    spots = torch.cat([rank * longest + torch.arange(n) for rank, n in enumerate(sizes.tolist())])
    order = types.argsort(stable=True)
    mine = (owners[order] == world.rank).nonzero()[:, 0]
    spots, owners, mine = (
        part.to(ids.device, non_blocking=True) for part in (spots[order], owners[order], mine)
    )
    return Everyone(
        vectors=of_all_ranks(world, vectors).flatten(0, 1)[spots],
        ids=of_all_ranks(world, ids).flatten()[spots],
        owners=owners,
        mine=mine,
        counts=by_rank.tolist(),
        seeds=seeds.tolist(),
    )


def of_all_ranks(world: World, mine: Tensor) -> Tensor:
    """(ranks, …) the like-shaped tensors (1, …) of all ranks."""
    if world.size == 1:
        return mine
    found = mine.new_empty(world.size, *mine.shape[1:])
    dist.all_gather_into_tensor(found, mine.contiguous())
    return found


def add_up(world: World, values: Tensor) -> None:
    """The sum over ranks, in place."""
    if world.size > 1:
        dist.all_reduce(values)
