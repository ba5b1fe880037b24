"""The two heavy parts of a forward pass, the layers and the token head: plain or compiled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embre.config import EncoderConfig
from embre.model.strip_forward import embed, encode_strip, layers_of_strip
from embre.model.token_head import NO_LABEL, TokenLosses, token_losses
from embre.refused import Refused

TARGETS = 256  # of which a compiled token head has a multiple


class HeavyParts(NamedTuple):
    """What does the work of `encode_strip`, for some rows, and of `token_losses`."""

    encode: Callable[..., Tensor] = encode_strip
    token_losses: TokenLosses = token_losses


def heavy_parts(config: EncoderConfig, device: torch.device) -> HeavyParts:
    """As the config wants them carried out. Raises Refused where they cannot be compiled."""
    if not config.compile:
        return HeavyParts()
    if device.type == "cuda" and config.precision == "fp32":
        raise Refused(
            "encoder.compile: the attention kernel of CUDA is for half precision; set "
            "encoder.precision to bf16, or encoder.compile to false"
        )
    return compiled("inductor")


def compiled(backend: str) -> HeavyParts:
    """The layers in one piece and the token head with its loss in another, each for any number of
    documents, rows and targets.

    Not the embeddings: compiled, their backward pass would add up in the order of threads, and a
    run would no longer repeat itself to the last bit.
    """
    layers = torch.compile(layers_of_strip, fullgraph=True, backend=backend)
    losses = torch.compile(token_losses, fullgraph=True, backend=backend)

    def encode(
        bert: Any,
        input_ids_T: Tensor,
        position_ids_T: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        rows_R: Tensor,
        row_cu_seqlens: Tensor,
    ) -> Tensor:
        # Code is made for sizes of this order, and not for those of the micro-batch that comes
        # first, which is another after a restart.
        num_tokens = len(input_ids_T)
        num_documents = max(2, num_tokens // max_seqlen)
        torch._dynamo.mark_dynamic(rows_R, 0, hint_override=max(2, num_tokens // 4))
        for cuts in (cu_seqlens, row_cu_seqlens):
            torch._dynamo.mark_dynamic(cuts, 0, hint_override=num_documents)
        hidden_TH = embed(bert, input_ids_T, position_ids_T)
        return layers(bert, hidden_TH, cu_seqlens, max_seqlen, rows_R, row_cu_seqlens)

    def token(head: Any, asked_KH: Tensor, labels_K: Tensor) -> tuple[Tensor, Tensor | None]:
        # Sizes that vary less, are never 0 or 1, and leave the products of the gradient aligned.
        num = len(labels_K)
        more = max(1, -(-num // TARGETS)) * TARGETS - num
        asked, labels = F.pad(asked_KH, (0, 0, 0, more)), F.pad(labels_K, (0, more), value=NO_LABEL)
        for part in (asked, labels):
            torch._dynamo.mark_dynamic(part, 0, hint_override=16 * TARGETS)
        loss, right = losses(head, asked, labels)
        return loss, None if right is None else right[:num]

    return HeavyParts(encode, token)
