"""The model of pretraining: backbone, token head and entity head over one strip."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embre.model.encoder import encode_strip
from embre.model.heads import EntityHead, span_means
from embre.stream.batch import Batch

LOSSES: tuple[str, ...] = ("token", "type", "identifier")


class PretrainingModel(nn.Module):
    """A strip in, the sum of each loss out. Means are taken by the engine, over all ranks.

    `encoder` is a Hugging Face BERT for masked language modelling; it is what is exported. `encode`
    carries out its forward pass (see `strip_encoder`).
    """

    def __init__(
        self,
        encoder: nn.Module,
        entity_head: EntityHead,
        half_precision: bool,
        encode: Callable[..., Tensor] = encode_strip,
    ):
        super().__init__()
        self.encoder = encoder
        self.entity_head = entity_head
        self.half_precision = half_precision
        self.encode = encode

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The summed losses `token`, `type` and `identifier`; 0 where there is no target.

        Without gradients also `right/token` (K,), whether the most likely token is the true one,
        and what EntityHead adds.
        """
        token_logits, vectors = self.hidden_targets(batch)
        found = self.entity_head(
            vectors, batch.mention_types, batch.mention_ids, batch.known_by_type
        )
        found["token"] = F.cross_entropy(token_logits.float(), batch.token_labels, reduction="sum")
        if not torch.is_grad_enabled():
            found["right/token"] = token_logits.argmax(1) == batch.token_labels
        return found

    def hidden_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Token logits (K, V) at the token targets only, and mention vectors (M, H)."""
        with torch.autocast(
            batch.input_ids.device.type, torch.bfloat16, enabled=self.half_precision
        ):
            rows_RH = self.encode(
                self.encoder.bert,
                batch.input_ids,
                batch.positions,
                batch.boundaries,
                batch.longest,
                batch.rows,
                batch.row_boundaries,
            )
            asked_KH = rows_RH.index_select(0, batch.token_spots)
            token_logits = self.encoder.cls(asked_KH)  # type: ignore[operator]
            return token_logits, span_means(
                rows_RH.float(), batch.mention_spans, batch.num_span_rows
            )
