"""The pretraining model: backbone, token head and entity head over one strip."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from embre.model.compiling import HeavyParts
from embre.model.heads import EntityHead, span_means
from embre.model.token_head import align
from embre.stream.batch import Batch

LOSSES: tuple[str, ...] = ("token", "type", "identifier")


class PretrainingModel(nn.Module):
    """Maps a strip to the sum of each loss; the engine takes the means, over all ranks.

    `encoder` is a Hugging Face BERT for masked language modelling; it is exported after training.
    `heavy` are the parts of its forward pass that may be compiled.
    """

    def __init__(
        self,
        encoder: nn.Module,
        entity_head: EntityHead,
        half_precision: bool,
        heavy: HeavyParts | None = None,
    ):
        super().__init__()
        align(encoder)
        self.encoder: Any = encoder
        self.entity_head = entity_head
        self.half_precision = half_precision
        self.heavy = heavy or HeavyParts()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Summed losses `token`, `type` and `identifier`; 0 without targets.

        Without gradients also `right/token` (K,), whether the top token is the true one, and the
        ranks of EntityHead.
        """
        states_KH, vectors_MH = self.hidden_targets(batch)
        with self._precision(batch):
            loss, correct = self.heavy.token_losses(self.encoder.cls, states_KH, batch.token_labels)
        outputs = {"token": loss} if correct is None else {"token": loss, "right/token": correct}
        return outputs | self.entity_head(
            vectors_MH, batch.mention_types, batch.mention_ids, batch.num_known_by_type
        )

    def hidden_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Hidden states (K, H) at the token targets, and mention vectors (M, H)."""
        with self._precision(batch):
            rows_RH = self.heavy.encode(
                self.encoder.bert,
                batch.input_ids,
                batch.position_ids,
                batch.cu_seqlens,
                batch.max_seqlen,
                batch.rows,
                batch.row_cu_seqlens,
            )
            return rows_RH.index_select(0, batch.token_target_rows), span_means(
                rows_RH.float(), batch.mention_spans, batch.num_span_rows
            )

    def _precision(self, batch: Batch) -> AbstractContextManager[Any]:
        device = batch.input_ids.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.half_precision)
