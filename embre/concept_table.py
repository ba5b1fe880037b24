"""The vectors of all concepts as one matrix, and which rows each mention competes with.

Within a type the rows are in the order of the vocabulary, the types one after the other.

Shapes: K mentions in the vocabulary, sorted by type; C dimension; V concepts.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from embre.chunked_softmax import Contest, SummedCrossEntropy, all_rows, num_above, score


class ConceptTable(nn.Module):
    """One matrix, trained like every other weight.

    A type of more than `sample_above` concepts is trained against a sample of `sample_share` of
    them; it is measured against all.
    """

    def __init__(
        self, sizes: Sequence[int], dimension: int, sample_above: int, sample_share: float
    ):
        super().__init__()
        self.sizes, self.dimension = tuple(sizes), dimension
        self.sample_above, self.sample_share = sample_above, sample_share
        self.weight = nn.Parameter(torch.empty(max(sum(sizes), 1), dimension))
        nn.init.normal_(self.weight, std=dimension**-0.5)

    def forward(self, found_KC: Tensor, ids_K: Tensor, counts: Sequence[int]) -> Tensor:
        """The summed cross-entropy of the identifiers, each within its type."""
        contests = self._contests(ids_K, counts, sampled=self.training)
        return SummedCrossEntropy.apply(found_KC, self.weight, contests)  # type: ignore[return-value]

    @torch.no_grad()
    def ranks(self, found_KC: Tensor, ids_K: Tensor, counts: Sequence[int]) -> Tensor:
        """(K,) the rank of each true identifier within its type; 1 is the best."""
        contests = self._contests(ids_K, counts, sampled=False)
        _, label = score(found_KC, self.weight, contests)
        return num_above(found_KC, self.weight, contests, label) + 1

    def _contests(self, ids_K: Tensor, counts: Sequence[int], sampled: bool) -> list[Contest]:
        firsts = accumulate(self.sizes, initial=0)
        ends = list(accumulate(counts))
        seed = draw_seed() if sampled else 0
        contests = []
        of_types = enumerate(zip(self.sizes, firsts, counts, ends, strict=False))
        for number, (size, first, count, end) in of_types:
            if not count:
                continue
            vectors = slice(end - count, end)
            if sampled and size > self.sample_above:
                names = draw(size, self.sample_share, seed + number)
                contests.append(sample(vectors, first, size, ids_K[vectors], names))
            else:
                contests.append(all_rows(vectors, first, size, ids_K[vectors]))
        return contests


def draw_seed() -> int:
    """Where a sample begins, out of the random state that a micro-batch has on any rank."""
    return int(torch.randint(1 << 61, ()))


def draw(size: int, share: float, seed: int) -> Tensor:
    """Ids of a type, drawn evenly and with repeats; the same for a seed on any rank."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(size, (max(1, round(share * size)),), generator=generator)


def sample(vectors: slice, first: int, size: int, labels_M: Tensor, names_R: Tensor) -> Contest:
    """Vectors against drawn rows, each of which stands for size / R: the log-Q correction.

    The sum over the others is then right on average, and the label is not among them (sampled
    softmax; Bengio & Senécal, "Adaptive importance sampling to accelerate training of a neural
    probabilistic language model", 2008).
    """
    shift = math.log(size / len(names_R))
    names = names_R.to(labels_M.device)
    return Contest(vectors, names + first, names, labels_M, labels_M + first, shift)
