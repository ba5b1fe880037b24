"""Losses for candidate pairs, most of which are unrelated, and the matching probabilities.

Shapes: P pairs, L labels of which label 0 is None. Illegal labels have logit minus infinity.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embre.relations.passes import RELATED, UNLABELLED, UNRELATED


class RelationLoss(NamedTuple):
    """`loss`: logits (P, L), labels (P,) and the weight of pairs labelled None → their sum.
    `probabilities`: logits → (P,) that a pair is related, (P, L - 1) of each type if it is."""

    loss: Callable[[Tensor, Tensor, float], Tensor]
    probabilities: Callable[[Tensor], tuple[Tensor, Tensor]]


def cross_entropy(logits_PL: Tensor, labels_P: Tensor, none_weight: float) -> Tensor:
    """The sum of -log P(label), one softmax over all labels."""
    weight_L = logits_PL.new_ones(logits_PL.shape[1])
    weight_L[0] = none_weight
    return F.cross_entropy(logits_PL, labels_P, weight_L, ignore_index=UNLABELLED, reduction="sum")


def adaptive_threshold(logits_PL: Tensor, labels_P: Tensor, none_weight: float) -> Tensor:
    """The adaptive-thresholding loss of ATLOP (Zhou et al. 2021, arXiv 2010.11304, section 3.3).

    None is the threshold class: the true type must rise above it, all others stay below. A pair
    has one label here, so the first softmax is over the true type and the threshold.
    """
    # Unlabelled pairs get weight 0: removing them would make the host wait for the GPU.
    known, labels_P = labels_P != UNLABELLED, labels_P.clamp(min=0)
    threshold_P, related_P = logits_PL[:, 0], labels_P > 0
    true_P = logits_PL.gather(1, labels_P[:, None])[:, 0]
    above_P = F.softplus(threshold_P - true_P)
    # The true type is not pushed below the threshold; None itself always stays.
    left_out = F.one_hot(labels_P, logits_PL.shape[1]).bool() & related_P[:, None]
    below_P = logits_PL.masked_fill(left_out, -torch.inf).logsumexp(1) - threshold_P
    weight_P = torch.where(related_P, 1.0, none_weight) * known
    return (weight_P * (below_P + torch.where(related_P, above_P, 0.0))).sum()


def type_loss(logits_PL: Tensor, labels_P: Tensor) -> Tensor:
    """The sum of -log P(type) over related pairs, by the softmax over the types alone."""
    types_P = torch.where(labels_P > 0, labels_P - 1, UNLABELLED)
    return F.cross_entropy(logits_PL[:, 1:], types_P, ignore_index=UNLABELLED, reduction="sum")


def novelty_loss(logits_P3: Tensor, labels_P: Tensor, none_weight: float) -> Tensor:
    """The sum of -log P(label), one softmax over unrelated, not novel and novel. For RELATED, any
    of the last two may be right: -log of their sum."""
    open_P = labels_P == RELATED
    weight_3 = logits_P3.new_ones(3)
    weight_3[UNRELATED] = none_weight
    labelled = F.cross_entropy(
        logits_P3,
        labels_P.masked_fill(open_P, UNLABELLED),
        weight_3,
        ignore_index=UNLABELLED,
        reduction="sum",
    )
    either_P = logits_P3.logsumexp(1) - logits_P3[:, UNRELATED + 1 :].logsumexp(1)
    return labelled + torch.where(open_P, either_P, 0.0).sum()


def softmax_probabilities(logits_PL: Tensor) -> tuple[Tensor, Tensor]:
    """For `cross_entropy`: the sum of all but P(None), because 1 - P(None) rounds small values to
    0; and the softmax over the types alone."""
    return logits_PL.softmax(1)[:, 1:].sum(1), logits_PL[:, 1:].softmax(1)


def threshold_probabilities(logits_PL: Tensor) -> tuple[Tensor, Tensor]:
    """For `adaptive_threshold`: the sigmoid of the maximum type logit minus the threshold logit;
    and the softmax over the types alone."""
    highest_P = logits_PL[:, 1:].amax(1)
    return (highest_P - logits_PL[:, 0]).sigmoid(), logits_PL[:, 1:].softmax(1)


LOSSES = {
    "cross_entropy": RelationLoss(cross_entropy, softmax_probabilities),
    "adaptive_threshold": RelationLoss(adaptive_threshold, threshold_probabilities),
}
