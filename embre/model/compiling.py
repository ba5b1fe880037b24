"""The two expensive parts of the forward pass, layers and token head: eager or compiled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embre.config import EncoderConfig
from embre.model.strip_forward import embed, encode_strip, layers_of_strip
from embre.model.token_head import NO_LABEL, TokenLosses, token_losses
from embre.refused import Refused

# By the number of rows Inductor decides whether to fuse the two sums of a norm's backward pass, and
# guards it: another number would be compiled again, or fail at once. So they are always fused.
OPTIONS: dict[str, Any] = {"triton.mix_order_reduction_non_strict_mode": True}
TARGETS_MULTIPLE = 256  # the targets of a compiled token head are padded to a multiple of this


class HeavyParts(NamedTuple):
    """Implementations of `encode_strip` (for some rows) and of `token_losses`."""

    encode: Callable[..., Tensor] = encode_strip
    token_losses: TokenLosses = token_losses


def heavy_parts(config: EncoderConfig, device: torch.device) -> HeavyParts:
    """Eager or compiled parts, by the config. Raises Refused if they cannot be compiled."""
    if not config.compile:
        return HeavyParts()
    if device.type == "cuda" and config.precision == "fp32":
        raise Refused(
            "encoder.compile: the CUDA attention kernel needs half precision; set "
            "encoder.precision to bf16 or encoder.compile to false"
        )
    return compiled("inductor")


def compiled(backend: str) -> HeavyParts:
    """Compile the layers as one graph and the token head with its loss as another, with dynamic
    numbers of documents, rows and targets.

    The embeddings stay eager: their compiled backward pass adds up in thread order, and runs would
    not be reproducible to the last bit.
    """
    options = OPTIONS if backend == "inductor" else None
    layers = torch.compile(layers_of_strip, fullgraph=True, backend=backend, options=options)
    losses = torch.compile(token_losses, fullgraph=True, backend=backend, options=options)

    def encode(
        bert: Any,
        input_ids_T: Tensor,
        position_ids_T: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        rows_R: Tensor,
        row_cu_seqlens: Tensor,
    ) -> Tensor:
        # Generate code for typical sizes, not those of the first micro-batch, which differs after
        # a restart.
        num_tokens = len(input_ids_T)
        num_documents = max(2, num_tokens // max_seqlen)
        torch._dynamo.mark_dynamic(rows_R, 0, hint_override=max(2, num_tokens // 4))
        for cuts in (cu_seqlens, row_cu_seqlens):
            torch._dynamo.mark_dynamic(cuts, 0, hint_override=num_documents)
        hidden_TH = embed(bert, input_ids_T, position_ids_T)
        return layers(bert, hidden_TH, cu_seqlens, max_seqlen, rows_R, row_cu_seqlens)

    def token(head: Any, states_KH: Tensor, labels_K: Tensor) -> tuple[Tensor, Tensor | None]:
        # Pad to sizes that vary less, are never 0 or 1, and keep the gradient products aligned.
        num = len(labels_K)
        padding = max(1, -(-num // TARGETS_MULTIPLE)) * TARGETS_MULTIPLE - num
        states = F.pad(states_KH, (0, 0, 0, padding))
        labels = F.pad(labels_K, (0, padding), value=NO_LABEL)
        for part in (states, labels):
            torch._dynamo.mark_dynamic(part, 0, hint_override=16 * TARGETS_MULTIPLE)
        loss, correct = losses(head, states, labels)
        return loss, None if correct is None else correct[:num]

    return HeavyParts(encode, token)
