"""The entity head: from a hidden mention's vector to P(type) · P(identifier | type).

Shapes: M mentions, H hidden size, C dimension of a concept's vector.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def span_means(hidden_TH: Tensor, spans_M2: Tensor) -> Tensor:
    """(M, H) the mean of the hidden states of each span (start, end)."""
    lengths = spans_M2[:, 1] - spans_M2[:, 0]
    owner = spans_M2.new_tensor(range(len(spans_M2))).repeat_interleave(lengths)
    first = (lengths.cumsum(0) - lengths)[owner]
    spots = spans_M2[owner, 0] + spans_M2.new_tensor(range(len(owner))) - first
    sums = hidden_TH.new_zeros(len(spans_M2), hidden_TH.shape[1], dtype=hidden_TH.dtype)
    return sums.index_add(0, owner, hidden_TH[spots]) / lengths[:, None].clamp(min=1)


class EntityHead(nn.Module):
    """Identifies a mention's concept: its type first, then its identifier within that type.

    Identifiers of other types are no competitors, so the second softmax is exact over one type
    only. A concept outside the vocabulary (id -1) counts for the type alone.
    """

    def __init__(self, hidden: int, dimension: int, sizes: tuple[int, ...]):
        super().__init__()
        self.sizes = sizes
        self.project = nn.Sequential(
            nn.Linear(hidden, dimension), nn.GELU(), nn.LayerNorm(dimension)
        )
        self.types = nn.Linear(dimension, len(sizes))
        self.concepts = nn.Embedding(max(sum(sizes), 1), dimension)
        nn.init.normal_(self.concepts.weight, std=dimension**-0.5)

    def forward(self, vectors_MH: Tensor, types_M: Tensor, ids_M: Tensor) -> dict[str, Tensor]:
        """The summed cross-entropy of `type`, and of `identifier` within the true type.

        In the precision of the vectors: the caller gives them in float32 or better. In evaluation
        also `hits/type` and `hits/identifier`.
        """
        found_MC = self.project(vectors_MH)
        type_logits = self.types(found_MC)
        loss, hits = type_logits.new_zeros(()), types_M.new_zeros(())
        tables = self.concepts.weight[: sum(self.sizes)].split(list(self.sizes))
        for index, table in enumerate(tables):
            mine = (types_M == index) & (ids_M >= 0)
            logits = found_MC[mine] @ table.T
            loss = loss + F.cross_entropy(logits, ids_M[mine], reduction="sum")
            if not self.training and len(table):
                hits = hits + (logits.argmax(1) == ids_M[mine]).sum()
        found = {
            "type": F.cross_entropy(type_logits, types_M, reduction="sum"),
            "identifier": loss,
        }
        if not self.training:
            found["hits/type"] = (type_logits.argmax(1) == types_M).sum()
            found["hits/identifier"] = hits
        return found
