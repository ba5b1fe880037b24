"""Attention in a strip is torch's own attention of each document, and so are its gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, library

from embre.model.strip_attention import on_cpu, strip_attention

ROWS = torch.tensor([0, 3, 3, 8, 9], dtype=torch.int32)  # of the second document none
PLACES = torch.tensor([0, 5, 9, 21, 40], dtype=torch.int32)


def inputs(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(n, 2, 8, dtype=dtype, requires_grad=True) for n in (9, 40, 40)]


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return strip_attention(query, key, value, ROWS, PLACES, max_seqlen=19)


def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One softmax over the strip, from which other documents are masked."""
    row_of, place_of = (
        torch.repeat_interleave(torch.arange(4), ends.diff().long()) for ends in (ROWS, PLACES)
    )
    seen = row_of[:, None] == place_of
    parts = (x.transpose(0, 1) for x in (query, key, value))
    return F.scaled_dot_product_attention(*parts, attn_mask=seen).transpose(0, 1)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 3e-2)],
)
def test_values_and_gradients_are_those_of_plain_attention(
    dtype: torch.dtype, tolerance: float
) -> None:
    ours, theirs = inputs(dtype), inputs(dtype)
    found, expected = attention(*ours), plain(*theirs)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=tolerance, rtol=tolerance)
    assert ours[1].grad is not None and not ours[1].grad[5:9].any()


def test_gradients_pass_gradcheck() -> None:
    assert torch.autograd.gradcheck(attention, inputs(torch.float64), fast_mode=True)


def test_the_custom_op_passes_opcheck() -> None:
    library.opcheck(on_cpu, (*inputs(torch.float32), ROWS, PLACES))
