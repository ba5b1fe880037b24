"""The forward pass of a BERT over packed strips.

Documents lie end to end in one strip; attention is within each document. The modules and weights
are those of Hugging Face; only the forward pass is ours.

Shapes: T tokens of a strip, R requested rows of it, H hidden size.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from embre.model.strip_attention import strip_attention

# (layer, query, key, value (T, A, E)) → query, key, value with a larger E.
Extend = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class LowPrecisionLayerNorm(nn.LayerNorm):
    """LayerNorm in the precision of its input; mean and variance are float32 internally. After
    MosaicBERT (Portes et al., 2023, arXiv 2312.17482).

    Under autocast every norm would read and write float32 and every matrix product would cast it
    back to bf16: half of the memory traffic of a layer.
    """

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        with without_autocast(input.device.type):
            return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Context with autocast disabled; the meta device has none. (Not every version of Dynamo can
    trace `torch.amp.is_autocast_available`.)"""
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def encode_strip(
    bert: Any,
    input_ids_T: Tensor,
    position_ids_T: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    rows_R: Tensor | None = None,
    row_cu_seqlens: Tensor | None = None,
    extend: Extend | None = None,
) -> Tensor:
    """Last hidden states (T, H) of a strip; `cu_seqlens` are cumulative lengths from 0 to T.

    With `rows_R`, sorted strip positions, returns only those states (R, H), and the last layer
    computes only them; `row_cu_seqlens` are their cumulative numbers by document. `extend` adds
    entries to query, key and value of each layer (see `entity_attention`), without `rows_R` only.
    """
    hidden_TH = embed(bert, input_ids_T, position_ids_T)
    return layers_of_strip(bert, hidden_TH, cu_seqlens, max_seqlen, rows_R, row_cu_seqlens, extend)


def embed(bert: Any, input_ids_T: Tensor, position_ids_T: Tensor) -> Tensor:
    """(T, H) embeddings of a strip, in the precision of autocast if it is on."""
    embedded = bert.embeddings(input_ids=input_ids_T[None], position_ids=position_ids_T[None])[0]
    device = input_ids_T.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return embedded.to(torch.get_autocast_dtype(device))
    return embedded


def layers_of_strip(
    bert: Any,
    hidden_TH: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    rows_R: Tensor | None,
    row_cu_seqlens: Tensor | None,
    extend: Extend | None = None,
) -> Tensor:
    """The layers of `encode_strip`, on the embeddings (T, H) of a strip."""
    run = _checkpointed_layer if bert.gradient_checkpointing and bert.training else _layer
    *layers, last = bert.encoder.layer
    number = 0
    for number, layer in enumerate(layers, start=1):
        more = extend and partial(extend, number - 1)
        hidden_TH = run(layer, hidden_TH, hidden_TH, cu_seqlens, cu_seqlens, max_seqlen, more)
    if rows_R is None or row_cu_seqlens is None:
        more = extend and partial(extend, number)
        return run(last, hidden_TH, hidden_TH, cu_seqlens, cu_seqlens, max_seqlen, more)
    rows_RH = hidden_TH.index_select(0, rows_R)
    return run(last, rows_RH, hidden_TH, row_cu_seqlens, cu_seqlens, max_seqlen)


def _checkpointed_layer(*arguments: Any) -> Tensor:
    """`_layer` with activation checkpointing."""
    output = checkpoint(_layer, *arguments, use_reentrant=False)
    assert isinstance(output, Tensor)
    return output


def _layer(
    layer: Any,
    rows_RH: Tensor,
    hidden_TH: Tensor,
    row_cu_seqlens: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    extend: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] | None = None,
) -> Tensor:
    """(R, H): output of a BertLayer at some rows of its input."""
    heads = layer.attention.self
    query, key, value = (
        part.unflatten(1, (heads.num_attention_heads, -1))
        for part in (heads.query(rows_RH), heads.key(hidden_TH), heads.value(hidden_TH))
    )
    size = query.shape[2]
    if extend is not None:
        query, key, value = extend(query, key, value)
    context = strip_attention(query, key, value, row_cu_seqlens, cu_seqlens, max_seqlen)
    context = context[..., :size].flatten(1)
    return layer.feed_forward_chunk(layer.attention.output(context, rows_RH))
