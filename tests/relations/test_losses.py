"""The losses and probabilities of the relation model follow their formulas."""

import pytest
import torch

from embre.relations.losses import LOSSES, novelty_loss, softmax_probabilities, type_loss
from embre.relations.pair_labels import NOT_NOVEL, NOVEL, RELATED, UNLABELLED, UNRELATED

INF = torch.inf


def some_logits() -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.tensor(
        [
            [0.5, 2.0, -1.0, -INF],
            [1.5, 0.0, 0.5, 1.0],
            [-1.0, 0.3, 0.1, -INF],
            [0.0, 0.0, 0.0, 0.0],
        ],
        dtype=torch.float64,
        requires_grad=True,
    )
    return logits, torch.tensor([1, 0, 2, UNLABELLED])


def test_adaptive_threshold_is_the_formula_of_atlop() -> None:
    logits, labels = some_logits()
    found = LOSSES["adaptive_threshold"].loss(logits, labels, 0.5)
    expected = torch.zeros((), dtype=torch.float64)
    for row, label in zip(logits.detach(), labels.tolist(), strict=True):
        if label == UNLABELLED:
            continue
        others = [row[i] for i in range(4) if i != label or label == 0]
        threshold = -(row[0].exp() / sum(other.exp() for other in others)).log()
        if label:
            expected += threshold - (row[label].exp() / (row[label].exp() + row[0].exp())).log()
        else:
            expected += 0.5 * threshold
    torch.testing.assert_close(found, expected)
    found.backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())
    assert not logits.grad[3].any()


def test_cross_entropy_weighs_none() -> None:
    logits, labels = some_logits()
    logs = logits.log_softmax(1)
    expected = -(logs[0, 1] + 0.25 * logs[1, 0] + logs[2, 2])
    torch.testing.assert_close(LOSSES["cross_entropy"].loss(logits, labels, 0.25), expected)


def test_the_type_loss_is_that_of_the_types_alone_over_related_pairs() -> None:
    logits, labels = some_logits()
    found = type_loss(logits, labels)
    first, third = logits[0, 1:3].log_softmax(0)[0], logits[2, 1:3].log_softmax(0)[1]
    torch.testing.assert_close(found, -(first + third))
    found.backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())
    assert logits.grad.any(1).tolist() == [True, False, True, False]
    assert not logits.grad[:, 0].any()


@pytest.mark.parametrize("name", LOSSES)
def test_no_pair_gives_zero_loss(name: str) -> None:
    empty = torch.zeros(0, 4, requires_grad=True)
    found = LOSSES[name].loss(empty, torch.zeros(0, dtype=torch.int64), 1.0)
    assert found.item() == 0
    found.backward()


def test_probability_one_half_is_at_the_threshold() -> None:
    logits = torch.tensor([[1.0, 1.0, -2.0], [1.0, 0.9, 0.9], [0.0, -INF, 3.0]])
    related, types = LOSSES["adaptive_threshold"].probabilities(logits)
    assert related[0] == pytest.approx(0.5) and related[1] < 0.5 < related[2]
    torch.testing.assert_close(types.sum(1), torch.ones(3))
    related, types = LOSSES["cross_entropy"].probabilities(logits)
    torch.testing.assert_close(related, 1 - logits.softmax(1)[:, 0])
    assert types[2].tolist() == [0.0, 1.0]


def test_related_pairs_of_unknown_novelty_have_both_as_target() -> None:
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([UNRELATED, NOT_NOVEL, NOVEL, RELATED, UNLABELLED])
    found = novelty_loss(logits, labels, 0.25)
    shares = logits.softmax(1)
    related = shares[3, NOT_NOVEL] + shares[3, NOVEL]
    logs = [shares[1, NOT_NOVEL].log(), shares[2, NOVEL].log(), related.log()]
    torch.testing.assert_close(found, -0.25 * shares[0, UNRELATED].log() - sum(logs))
    found.backward()
    assert logits.grad is not None and not logits.grad[4].any()
    told = logits.grad[3] / logits.grad[3, UNRELATED]
    split = logits.detach()[3, 1:].softmax(0)  # which of the two it is stays as it was
    torch.testing.assert_close(told[1:], -split)
    none = novelty_loss(logits[:0], labels[:0], 1.0)
    assert none.item() == 0.0


def test_novelty_that_is_never_unrelated_has_gradients() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64)
    logits[:, UNRELATED] = -INF
    logits.requires_grad_()
    labels = torch.tensor([NOT_NOVEL, NOVEL, RELATED, UNLABELLED])
    novelty_loss(logits, labels, 1.0).backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())
    assert logits.grad.any(1).tolist() == [True, True, False, False]


def test_small_probabilities_are_not_rounded_to_zero() -> None:
    related, _ = softmax_probabilities(torch.tensor([[30.0, 0.0, 0.0]]))
    assert 1e-13 < float(related) < 1e-12
