"""The token head whose logits are padded gives the losses, gradients and weights of a plain one."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import BertConfig, BertForMaskedLM

from embre.model.compiling import compiled
from embre.model.token_head import ALIGNED, NO_LABEL, PADDING_LOGIT, align, token_losses

HIDDEN, NUM = 32, 9
AUTOCAST = [False, True]
pytestmark = pytest.mark.usefixtures("nothing_compiled_before")


def bert(vocabulary: int) -> Any:
    torch.manual_seed(3)
    shape = BertConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
    )
    model = BertForMaskedLM(shape)
    torch.nn.init.normal_(model.cls.predictions.bias)
    return model


def asked(vocabulary: int, num: int = NUM) -> tuple[Tensor, Tensor]:
    """States, and the labels of which the last word piece is one."""
    random = torch.Generator().manual_seed(4)
    labels = torch.randint(vocabulary, (num,), generator=random)
    labels[:1] = vocabulary - 1
    return torch.randn(num, HIDDEN, generator=random).requires_grad_(), labels


def results(model: Any, losses: Any, states: Tensor, labels: Tensor, half: bool) -> list[Tensor]:
    """The loss, its gradients, and what is right."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss, nothing = losses(model.cls, states, labels)
        assert nothing is None
        with torch.no_grad():
            same, right = losses(model.cls, states, labels)
    weights = [parameter for parameter in model.cls.parameters()]
    gradients = torch.autograd.grad(loss, [states, *weights])
    torch.testing.assert_close(same, loss.detach())
    return [loss.detach(), *gradients, right]


@pytest.mark.parametrize("half", AUTOCAST)
@pytest.mark.parametrize("vocabulary", [101, 127, 128, 129])
def test_padding_changes_no_loss_and_no_gradient(vocabulary: int, half: bool) -> None:
    states, labels = asked(vocabulary)
    wanted = results(bert(vocabulary), token_losses, states, labels, half)
    model = bert(vocabulary)
    align(model)
    with torch.no_grad():
        logits = model.cls(states)
    assert logits.shape[1] % ALIGNED == 0 and logits.shape[1] < vocabulary + ALIGNED
    assert (logits[:, vocabulary:] == PADDING_LOGIT).all()
    found = results(model, token_losses, states, labels, half)
    assert wanted[-1].any() or not found[-1].any()
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_aligned_logits_leave_the_weights_unchanged() -> None:
    model, plain = bert(101), bert(101)
    align(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(v, plain.state_dict()[name]) for name, v in model.state_dict().items())
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_the_loss_is_cross_entropy_over_labelled_targets() -> None:
    model = bert(101)
    align(model)
    states, labels = asked(101)
    wanted = F.cross_entropy(model.cls(states)[:, :101], labels, reduction="sum")
    more = torch.cat([states, torch.randn(5, HIDDEN)])
    found, _ = token_losses(model.cls, more, F.pad(labels, (0, 5), value=NO_LABEL))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("half", AUTOCAST)
def test_one_compiled_graph_serves_any_number_of_targets(half: bool) -> None:
    model = bert(101)
    align(model)
    numbers = (0, 1, NUM, 255, 256, 257, 700)
    wanted = [results(model, token_losses, *asked(101, num), half) for num in numbers]
    heavy = compiled("aot_eager")
    results(model, heavy.token_losses, *asked(101, 3), half)
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = [results(model, heavy.token_losses, *asked(101, num), half) for num in numbers]
    assert counters["stats"]["unique_graphs"] == 2, "one for training, one for evaluation"
    assert not counters["graph_break"]
    near = 2e-2 if half else 1e-5
    for num, ours, theirs in zip(numbers, found, wanted, strict=True):
        assert len(ours[-1]) == num and torch.equal(ours[-1], theirs[-1])
        for one, other in zip(ours[:-1], theirs[:-1], strict=True):
            torch.testing.assert_close(one, other, rtol=near, atol=near)
