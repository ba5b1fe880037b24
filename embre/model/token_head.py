"""The token head and its loss: a softmax over all word pieces, at the token targets alone.

Shapes: K token targets, V word pieces, H hidden size.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALIGNED = 64  # of which the width of the logits is a multiple, and so their rows are aligned
PADDING_LOGIT = -1e4  # the logit of what is no word piece: its share is 0, exactly
NO_LABEL = -100  # what a cross-entropy leaves out

# The head, (K, H) states and (K,) labels → the summed loss; without gradients also (K,) whether the
# most likely word piece is the true one.
TokenLosses = Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor | None]]


class AlignedLinear(nn.Linear):
    """A linear layer with outputs more, whose value is PADDING_LOGIT, up to a multiple of ALIGNED.

    BERT's 30,522 word pieces are no multiple of 8, and all three products with such a matrix go
    without the fast kernels. Its weights are as they were, and whole here under ZeRO-3 too.
    """

    def forward(self, input: Tensor) -> Tensor:
        more = -self.out_features % ALIGNED
        if not more:
            return super().forward(input)
        half = torch.is_autocast_enabled(input.device.type)
        dtype = torch.get_autocast_dtype(input.device.type) if half else self.weight.dtype
        weight = F.pad(self.weight.to(dtype), (0, 0, 0, more))
        return F.linear(input, weight, F.pad(self.bias.to(dtype), (0, more), value=PADDING_LOGIT))


def align(encoder: Any) -> None:
    """Let the head of a BERT give aligned logits: (K, V) and some that say PADDING_LOGIT."""
    encoder.cls.predictions.decoder.__class__ = AlignedLinear


def token_losses(head: Any, asked_KH: Tensor, labels_K: Tensor) -> tuple[Tensor, Tensor | None]:
    """See TokenLosses. Labels that are NO_LABEL count for nothing."""
    logits = head(asked_KH).float()
    loss = F.cross_entropy(logits, labels_K, ignore_index=NO_LABEL, reduction="sum")
    return loss, None if torch.is_grad_enabled() else logits.argmax(1) == labels_K
