"""Attention within the documents of a strip, for all tokens of it or for some rows.

Shapes: T tokens of a strip, R rows that ask, A heads, E head size, B documents.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def strip_attention(
    query_RAE: Tensor,
    key_TAE: Tensor,
    value_TAE: Tensor,
    row_boundaries: Tensor,
    boundaries: Tensor,
    longest: int,
) -> Tensor:
    """(R, A, E): each row attends to the tokens of its document.

    `boundaries` (B + 1,) int32 say where the documents start in the strip, from 0 to T, and
    `row_boundaries` where their rows do, from 0 to R. On CUDA in half precision one variable-length
    kernel, elsewhere one call per document. There is no dropout on attention weights (the kernel
    has none).
    """
    if query_RAE.is_cuda and query_RAE.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        found = varlen_attn(
            query_RAE, key_TAE, value_TAE, row_boundaries, boundaries, longest, longest
        )
        assert isinstance(found, Tensor)
        return found
    rows, tokens = row_boundaries.tolist(), boundaries.tolist()
    parts = []
    for row, last_row, start, end in zip(rows, rows[1:], tokens, tokens[1:], strict=False):
        asked = (query_RAE[row:last_row], key_TAE[start:end], value_TAE[start:end])
        found = F.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in asked))
        parts.append(found[0].transpose(0, 1))
    return torch.cat(parts)
