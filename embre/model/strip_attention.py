"""Attention within each document of a strip, for all tokens or for some query rows.

On a CPU it is one custom op, because its loop over documents depends on data and cannot be traced.

Shapes: T tokens of a strip, R query rows, A heads, E head size, B documents.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, library
from torch.nn.attention.varlen import varlen_attn


def strip_attention(
    query_RAE: Tensor,
    key_TAE: Tensor,
    value_TAE: Tensor,
    row_cu_seqlens: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
) -> Tensor:
    """(R, A, E): each row attends to the tokens of its document.

    `cu_seqlens` (B + 1,) int32 are the cumulative document lengths, from 0 to T, and
    `row_cu_seqlens` (B + 1,) int32 the cumulative numbers of query rows, from 0 to R. No dropout on
    attention weights: the CUDA kernel has none. That kernel needs half precision; float32 on CUDA
    takes one call per document, which cannot be compiled as one graph.
    """
    if query_RAE.device.type == "cpu":
        return on_cpu(query_RAE, key_TAE, value_TAE, row_cu_seqlens, cu_seqlens)[0]
    if query_RAE.dtype in (torch.bfloat16, torch.float16):
        found = varlen_attn(
            query_RAE, key_TAE, value_TAE, row_cu_seqlens, cu_seqlens, max_seqlen, max_seqlen
        )
        assert isinstance(found, Tensor)
        return found
    parts = [
        F.scaled_dot_product_attention(
            _heads_first(query_RAE[rows]),
            _heads_first(key_TAE[place]),
            _heads_first(value_TAE[place]),
        )
        for rows, place in _documents(row_cu_seqlens, cu_seqlens)
    ]
    return torch.cat(parts, dim=2)[0].transpose(0, 1)


@library.custom_op("embre::strip_attention", mutates_args=(), device_types="cpu")
def on_cpu(
    query_RAE: Tensor,
    key_TAE: Tensor,
    value_TAE: Tensor,
    row_cu_seqlens: Tensor,
    cu_seqlens: Tensor,
) -> tuple[Tensor, Tensor]:
    """(R, A, E) attention output, and (R, A) the log-sum-exp of each softmax."""
    found, sums = _empty(query_RAE)
    for rows, place in _documents(row_cu_seqlens, cu_seqlens):
        inputs = (query_RAE[rows], key_TAE[place], value_TAE[place])
        here, logs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *map(_heads_first, inputs)
        )
        found[rows], sums[rows] = here[0].transpose(0, 1), logs[0].T
    return found, sums


@on_cpu.register_fake
def _(query_RAE: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return _empty(query_RAE)


@library.custom_op("embre::strip_attention_backward", mutates_args=(), device_types="cpu")
def backward_on_cpu(
    grad_RAE: Tensor,
    query_RAE: Tensor,
    key_TAE: Tensor,
    value_TAE: Tensor,
    found_RAE: Tensor,
    sums_RA: Tensor,
    row_cu_seqlens: Tensor,
    cu_seqlens: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value; zero for documents without query rows."""
    query, key, value = (x.new_zeros(x.shape) for x in (query_RAE, key_TAE, value_TAE))
    for rows, place in _documents(row_cu_seqlens, cu_seqlens):
        inputs = (
            grad_RAE[rows],
            query_RAE[rows],
            key_TAE[place],
            value_TAE[place],
            found_RAE[rows],
        )
        here = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *map(_heads_first, inputs), sums_RA[rows].T[None], 0.0, False
        )
        query[rows], key[place], value[place] = (part[0].transpose(0, 1) for part in here)
    return query, key, value


@backward_on_cpu.register_fake
def _(
    grad_RAE: Tensor, query_RAE: Tensor, key_TAE: Tensor, value_TAE: Tensor, *_: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (x.new_empty(x.shape) for x in (query_RAE, key_TAE, value_TAE))
    return query, key, value


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, row_cu_seqlens, cu_seqlens = inputs
    ctx.save_for_backward(query, key, value, *output, row_cu_seqlens, cu_seqlens)


def _backward(ctx: Any, grad_RAE: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*backward_on_cpu(grad_RAE, *ctx.saved_tensors), None, None)


on_cpu.register_autograd(_backward, setup_context=_save_for_backward)


def _documents(row_cu_seqlens: Tensor, cu_seqlens: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield the slices of query rows and of the strip of each document that has rows."""
    rows, places = row_cu_seqlens.tolist(), cu_seqlens.tolist()
    for row, last_row, start, end in zip(rows, rows[1:], places, places[1:], strict=False):
        if row < last_row:
            yield slice(row, last_row), slice(start, end)


def _heads_first(some_nAE: Tensor) -> Tensor:
    """(1, A, n, E), the layout of torch's attention."""
    return some_nAE.transpose(0, 1)[None]


def _empty(query_RAE: Tensor) -> tuple[Tensor, Tensor]:
    exact = torch.float64 if query_RAE.dtype == torch.float64 else torch.float32
    return query_RAE.new_empty(query_RAE.shape), query_RAE.new_empty(
        query_RAE.shape[:2], dtype=exact
    )
