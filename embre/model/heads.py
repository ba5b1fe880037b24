"""The entity head: vector of a hidden mention ─▶ P(type) · P(identifier | type).

Shapes: M mentions, of which the first K are in the vocabulary; H hidden size, C dimension of a
concept's vector.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embre.model.concept_table import ConceptTable
from embre.model.sharded_table import ShardedTable


def span_means(hidden_TH: Tensor, spans_M2: Tensor, num_rows: int) -> Tensor:
    """(M, H) mean of the hidden states of each span (start, end). `num_rows`, the total length of
    the spans, is passed in to avoid a device synchronization."""
    lengths = spans_M2[:, 1] - spans_M2[:, 0]
    spans = torch.arange(len(spans_M2), device=spans_M2.device)
    owner = spans.repeat_interleave(lengths, output_size=num_rows)
    first = (lengths.cumsum(0) - lengths)[owner]
    positions = spans_M2[owner, 0] + torch.arange(num_rows, device=spans_M2.device) - first
    sums = hidden_TH.new_zeros(len(spans_M2), hidden_TH.shape[1])
    return sums.index_add(0, owner, hidden_TH[positions]) / lengths[:, None].clamp(min=1)


class EntityHead(nn.Module):
    """Predicts a mention's concept: its type, then its identifier within that type.

    The second softmax is over the identifiers of one type only. A concept outside the vocabulary
    contributes to the type loss only.
    """

    def __init__(self, hidden: int, num_types: int, concepts: ConceptTable | ShardedTable):
        super().__init__()
        dimension = concepts.dimension
        self.project = nn.Sequential(
            nn.Linear(hidden, dimension), nn.GELU(), nn.LayerNorm(dimension)
        )
        self.types = nn.Linear(dimension, num_types)
        self.concepts = concepts

    def forward(
        self,
        vectors_MH: Tensor,
        types_M: Tensor,
        ids_M: Tensor,
        num_known_by_type: Sequence[int],
    ) -> dict[str, Tensor]:
        """Summed cross-entropy of `type`, and of `identifier` within the true type.

        Mentions in the vocabulary come first, sorted by type, `num_known_by_type` per type. Losses
        are in the precision of the vectors: pass float32 or better. Without gradients also
        `right/type` (M,), whether the top type is the true one, and `rank/identifier` (K,), 1 is
        best.
        """
        projected_MC = self.project(vectors_MH)
        type_logits = self.types(projected_MC)
        type_loss = F.cross_entropy(type_logits, types_M, reduction="sum")
        num_known = sum(num_known_by_type)
        identifier_loss, ranks = self.concepts(
            projected_MC[:num_known], ids_M[:num_known], num_known_by_type
        )
        outputs = {"type": type_loss, "identifier": identifier_loss}
        if ranks is not None:
            outputs["right/type"] = type_logits.argmax(1) == types_M
            outputs["rank/identifier"] = ranks
        return outputs
