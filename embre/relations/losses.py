"""Losses of the relation model, and the probabilities that belong to them.

Shapes: P pairs, L relation labels, the first of which is None. Illegal labels have the logit minus
infinity. The labels are those of `pair_labels`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embre.relations.pair_labels import RELATED, UNLABELLED, UNRELATED


class RelationLoss(NamedTuple):
    """A loss of the relation head, and how its logits (P, L) become probabilities.

    `loss`: logits, labels (P,) and the weight of pairs labelled None → summed loss.
    `probabilities`: logits → (P,) that a pair is related, (P, L - 1) of each type given that it is.
    """

    loss: Callable[[Tensor, Tensor, float], Tensor]
    probabilities: Callable[[Tensor], tuple[Tensor, Tensor]]


def cross_entropy(logits_PL: Tensor, labels_P: Tensor, none_weight: float) -> Tensor:
    """The sum of -log P(label), with one softmax over None and all types."""
    weight_L = logits_PL.new_ones(logits_PL.shape[1])
    weight_L[0] = none_weight
    return F.cross_entropy(logits_PL, labels_P, weight_L, ignore_index=UNLABELLED, reduction="sum")


def adaptive_threshold(logits_PL: Tensor, labels_P: Tensor, none_weight: float) -> Tensor:
    """The adaptive-thresholding loss of ATLOP (Zhou et al. 2021, arXiv 2010.11304).

    None is the threshold class TH: the logit of the true type should be above that of TH, all
    others below. With one label per pair, the loss of a related pair is

        -log softmax(type, TH)[type] - log softmax(TH, all other types)[TH]

    and that of an unrelated pair the second term, over all types.
    """
    # Unlabelled pairs get weight 0: removing them would synchronize with the GPU.
    known, labels_P = labels_P != UNLABELLED, labels_P.clamp(min=0)
    threshold_P, related_P = logits_PL[:, 0], labels_P > 0
    true_P = logits_PL.gather(1, labels_P[:, None])[:, 0]
    above_P = F.softplus(threshold_P - true_P)
    true_type_PL = F.one_hot(labels_P, logits_PL.shape[1]).bool() & related_P[:, None]
    below_P = logits_PL.masked_fill(true_type_PL, -torch.inf).logsumexp(1) - threshold_P
    weight_P = torch.where(related_P, 1.0, none_weight) * known
    return (weight_P * (below_P + torch.where(related_P, above_P, 0.0))).sum()


def type_loss(logits_PL: Tensor, labels_P: Tensor) -> Tensor:
    """The sum of -log P(type) over related pairs, with a softmax over the types without None."""
    types_P = torch.where(labels_P > 0, labels_P - 1, UNLABELLED)
    return F.cross_entropy(logits_PL[:, 1:], types_P, ignore_index=UNLABELLED, reduction="sum")


def novelty_loss(logits_P3: Tensor, labels_P: Tensor, none_weight: float) -> Tensor:
    """The sum of -log P(label), with one softmax over UNRELATED, NOT_NOVEL and NOVEL. P(RELATED) is
    the sum of the last two."""
    related_P = labels_P == RELATED
    weight_3 = logits_P3.new_ones(3)
    weight_3[UNRELATED] = none_weight
    labelled = F.cross_entropy(
        logits_P3,
        labels_P.masked_fill(related_P, UNLABELLED),
        weight_3,
        ignore_index=UNLABELLED,
        reduction="sum",
    )
    either_P = logits_P3.logsumexp(1) - logits_P3[:, UNRELATED + 1 :].logsumexp(1)
    return labelled + torch.where(related_P, either_P, 0.0).sum()


def softmax_probabilities(logits_PL: Tensor) -> tuple[Tensor, Tensor]:
    """For `cross_entropy`. P(related) is the sum over the types, because 1 - P(None) would round
    small values to 0; the types have a softmax of their own, without None."""
    return logits_PL.softmax(1)[:, 1:].sum(1), logits_PL[:, 1:].softmax(1)


def threshold_probabilities(logits_PL: Tensor) -> tuple[Tensor, Tensor]:
    """For `adaptive_threshold`. P(related) is the sigmoid of the highest type logit minus the
    threshold logit; the types have a softmax without None."""
    highest_P = logits_PL[:, 1:].amax(1)
    return (highest_P - logits_PL[:, 0]).sigmoid(), logits_PL[:, 1:].softmax(1)


LOSSES = {
    "cross_entropy": RelationLoss(cross_entropy, softmax_probabilities),
    "adaptive_threshold": RelationLoss(adaptive_threshold, threshold_probabilities),
}
