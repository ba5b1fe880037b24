"""The vectors of all concepts as one matrix, scored against the mentions of each type.

Rows are sorted by type, within a type in the order of the vocabulary.

Shapes: K mentions in the vocabulary, sorted by type; C dimension; V concepts.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from embre.model.chunked_softmax import (
    ScoringBlock,
    cross_entropy_sum,
    full_block,
    num_ranked_above,
    score,
)


class ConceptTable(nn.Module):
    """The concept table as one matrix, which the engine trains like every other weight.

    A type with more than `sample_above` concepts is trained with a sampled softmax over the
    fraction `sample_share` of them; evaluation always uses all.
    """

    def __init__(
        self, sizes: Sequence[int], dimension: int, sample_above: int, sample_share: float
    ):
        super().__init__()
        self.sizes, self.dimension = tuple(sizes), dimension
        self.sample_above, self.sample_share = sample_above, sample_share
        self.weight = nn.Parameter(torch.empty(max(sum(sizes), 1), dimension))
        nn.init.normal_(self.weight, std=dimension**-0.5)

    def forward(
        self, projected_KC: Tensor, ids_K: Tensor, counts: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Summed cross-entropy of the identifiers, each within its type; without gradients also
        (K,) the rank of each true identifier within its type, 1 is best.

        Both in one call, because ZeRO-3 gathers the matrix for one forward only.
        """
        learning = torch.is_grad_enabled()
        blocks = self._blocks(ids_K, counts, sampled=learning)
        if learning:
            return cross_entropy_sum(projected_KC, self.weight, blocks), None
        others, label = score(projected_KC, self.weight, blocks)
        loss = (torch.logaddexp(others, label) - label).sum()
        return loss, num_ranked_above(projected_KC, self.weight, blocks, label) + 1

    def _blocks(self, ids_K: Tensor, counts: Sequence[int], sampled: bool) -> list[ScoringBlock]:
        firsts = accumulate(self.sizes, initial=0)
        ends = list(accumulate(counts))
        seed = draw_seed() if sampled else 0
        blocks = []
        types = enumerate(zip(self.sizes, firsts, counts, ends, strict=False))
        for number, (size, first, count, end) in types:
            if not count:
                continue
            vectors = slice(end - count, end)
            if sampled and size > self.sample_above:
                labels = ids_K[vectors]
                names, shifts, columns = draw(size, self.sample_share, seed + number, labels)
                blocks.append(ScoringBlock(vectors, names + first, columns, shifts))
            else:
                blocks.append(full_block(vectors, first, size, ids_K[vectors]))
        return blocks


def draw_seed() -> int:
    """Seed of a sample from torch's random state, which is set per micro-batch on any rank."""
    return int(torch.randint(1 << 61, ()))


def draw(size: int, share: float, seed: int, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sample (R,) ids of a type, (R,) their logit shifts, and (m,) the position of each label in
    the sample; equal for equal seeds on any rank, and without device synchronization.

    The labels of the micro-batch are always included, with shift 0: the concept of one mention is a
    likely confusion for another. A fraction `share` of the type is drawn uniformly with
    replacement. Drawn ids that are not labels get the log-Q correction of sampled softmax (Bengio &
    Senécal, "Adaptive importance sampling to accelerate training of a neural probabilistic language
    model", 2008), which makes the sum over the other rows unbiased.
    """
    known = labels.sort().values
    drawn = _hashes(max(1, round(share * size)), seed, labels.device) % size
    log_weight = math.log(size / len(drawn))
    shifts = torch.zeros(len(known) + len(drawn), device=labels.device)
    # Duplicates are left out: repeated labels, and drawn ids that are labels.
    shifts[1 : len(known)].masked_fill_(known[1:] == known[:-1], -torch.inf)
    # `isin` would sort millions of ids and synchronize with the GPU.
    nearest = torch.searchsorted(known, drawn).clamp_(max=len(known) - 1)
    shifts[len(known) :].fill_(log_weight).masked_fill_(known[nearest] == drawn, -torch.inf)
    return torch.cat([known, drawn]), shifts, torch.searchsorted(known, labels)


def _hashes(number: int, seed: int, device: torch.device) -> Tensor:
    """(number,) pseudorandom 63-bit numbers, equal on any device: SplitMix64 (Steele, Lea & Flood,
    "Fast splittable pseudorandom number generators", 2014)."""
    found = torch.arange(1, number + 1, device=device).mul_(_signed(0x9E3779B97F4A7C15)).add_(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        found.bitwise_xor_(_shifted(found, shift)).mul_(_signed(factor))
    return found.bitwise_xor_(_shifted(found, 31)).bitwise_and_((1 << 63) - 1)


def _shifted(numbers: Tensor, shift: int) -> Tensor:
    """Logical right shift of signed 64-bit numbers."""
    return (numbers >> shift).bitwise_and_((1 << 64 - shift) - 1)


def _signed(bits: int) -> int:
    return bits - (1 << 64)
