"""The token head and its loss: a softmax over all word pieces, at the token targets only.

Shapes: K token targets, V word pieces, H hidden size.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALIGNED = 64  # the width of the logits is padded to a multiple of this, so that rows are aligned
PADDING_LOGIT = -1e4  # logit of the padding columns; its exponential is exactly 0
NO_LABEL = -100  # label that the cross-entropy ignores

# (head, states (K, H), labels (K,)) → the summed loss and, without gradients, (K,) whether the top
# word piece is the label.
TokenLosses = Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor | None]]


class AlignedLinear(nn.Linear):
    """A linear layer whose output is padded with PADDING_LOGIT to a multiple of ALIGNED.

    BERT's 30,522 word pieces are not a multiple of 8, so all three products with such a matrix
    would miss the fast kernels. The weights are unchanged; ZeRO-3 gathers them for this module.
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
    """Make the head of a BERT return aligned logits: (K, V) and padding of PADDING_LOGIT."""
    encoder.cls.predictions.decoder.__class__ = AlignedLinear


def token_losses(head: Any, states_KH: Tensor, labels_K: Tensor) -> tuple[Tensor, Tensor | None]:
    """The eager TokenLosses. Labels equal to NO_LABEL are ignored."""
    logits = head(states_KH).float()
    loss = F.cross_entropy(logits, labels_K, ignore_index=NO_LABEL, reduction="sum")
    return loss, None if torch.is_grad_enabled() else logits.argmax(1) == labels_K
