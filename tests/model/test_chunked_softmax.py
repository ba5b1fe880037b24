"""The loss in chunks is F.cross_entropy, in value and gradient, and keeps no logits."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from embre.model import chunked_softmax, concept_table
from embre.model.chunked_softmax import (
    ScoringBlock,
    cross_entropy_sum,
    full_block,
    num_ranked_above,
    score,
)
from embre.model.concept_table import draw

FIRST, SIZE = 4, 23  # the rows of a type within a table
NUM_ROWS, NUM_VECTORS, DIMENSION = 40, 9, 6


@pytest.fixture(params=[1, 5 * NUM_VECTORS, 1 << 20], ids=["row by row", "five rows", "at once"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_softmax, "CHUNK_LOGITS", request.param)
    monkeypatch.setattr(chunked_softmax, "ALIGNED_ROWS", 1)


@pytest.fixture
def given() -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, a table, and labels of a type."""
    random = torch.Generator().manual_seed(1)
    vectors = torch.randn(NUM_VECTORS, DIMENSION, dtype=torch.float64, generator=random)
    table = torch.randn(NUM_ROWS, DIMENSION, dtype=torch.float64, generator=random)
    labels = torch.randint(SIZE, (NUM_VECTORS,), generator=random)
    return vectors.requires_grad_(), table.requires_grad_(), labels


def two_types(labels: Tensor) -> list[ScoringBlock]:
    """The first five vectors against one type, the others against another of ten concepts."""
    return [
        full_block(slice(0, 5), FIRST, SIZE, labels[:5]),
        full_block(slice(5, None), FIRST + SIZE, 10, labels[5:] % 10),
    ]


def plain(vectors: Tensor, table: Tensor, labels: Tensor) -> Tensor:
    one = vectors[:5] @ table[FIRST : FIRST + SIZE].T
    other = vectors[5:] @ table[FIRST + SIZE : FIRST + SIZE + 10].T
    first = F.cross_entropy(one, labels[:5], reduction="sum")
    return first + F.cross_entropy(other, labels[5:] % 10, reduction="sum")


@pytest.mark.usefixtures("chunk")
def test_loss_and_gradients_are_those_of_cross_entropy(given: tuple) -> None:
    vectors, table, labels = given
    found = cross_entropy_sum(vectors, table, two_types(labels))
    wanted = plain(vectors, table, labels)
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)
    for one, other in zip(
        torch.autograd.grad(3 * found, (vectors, table)),
        torch.autograd.grad(3 * wanted, (vectors, table)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that an operation makes."""

    found = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(made) if isinstance(x, Tensor)]
        self.found = max(self.found, *sizes, 0)
        return made


@pytest.mark.parametrize("sampled", [False, True])
def test_logits_are_never_all_in_memory(monkeypatch: pytest.MonkeyPatch, sampled: bool) -> None:
    size, chunk = 2000, 900
    monkeypatch.setattr(chunked_softmax, "CHUNK_LOGITS", chunk)
    monkeypatch.setattr(chunked_softmax, "ALIGNED_ROWS", 1)
    vectors, table = torch.ones(NUM_VECTORS, 1), torch.ones(size, 1).requires_grad_()
    labels, rows = torch.arange(NUM_VECTORS), torch.arange(size)
    contest = full_block(slice(None), 0, size, labels)
    if sampled:
        contest = ScoringBlock(slice(None), rows, labels, torch.zeros(size))
    kept: list[int] = []

    def keep(saved: Tensor) -> Tensor:
        kept.append(saved.numel())
        return saved

    with Largest() as largest, saved_tensors_hooks(keep, lambda saved: saved):
        cross_entropy_sum(vectors, table, [contest]).backward()
        num_ranked_above(vectors, table.detach(), [contest], torch.zeros(NUM_VECTORS))
    assert chunk <= largest.found <= size < NUM_VECTORS * size
    assert kept and sum(kept) < 2 * size


@pytest.mark.parametrize("num_vectors", [1, 1400, 9999, 40_000])
def test_chunk_widths_are_aligned(num_vectors: int) -> None:
    device = torch.device("meta")  # which computes nothing
    vectors, table = (torch.empty(n, 1, device=device) for n in (num_vectors, 1 << 20))
    labels = torch.empty(num_vectors, dtype=torch.int64, device=device)
    contest = full_block(slice(None), 0, len(table), labels)
    widths = [logits.shape[1] for logits, *_ in chunked_softmax._chunks(vectors, table, contest)]
    assert sum(widths) == len(table)
    assert all(width % 256 == 0 for width in widths)
    assert max(widths) == 256 or max(widths) * num_vectors <= chunked_softmax.CHUNK_LOGITS


@pytest.mark.usefixtures("chunk")
def test_the_gradient_passes_gradcheck(given: tuple) -> None:
    vectors, table, labels = given
    known, columns = labels.unique(return_inverse=True)
    rest = torch.tensor([row for row in (0, 3, 3, 22, 7) if row not in labels])
    drawn = torch.cat([known, rest, labels[:1]])
    shifts = torch.linspace(0, 1, len(drawn), dtype=torch.float64)
    shifts[-1] = -torch.inf  # a second occurrence of a label
    sampled = [against(drawn, shifts, columns)]
    for blocks in (two_types(labels), sampled):
        torch.autograd.gradcheck(
            lambda v, t, c=blocks: cross_entropy_sum(v, t, c), (vectors, table)
        )


def test_logits_far_apart_give_finite_losses(given: tuple) -> None:
    vectors, table, labels = given
    loss = cross_entropy_sum(1e4 * vectors, table, two_types(labels))
    wanted = plain(1e4 * vectors, table, labels)
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (vectors, table)))


def test_a_type_of_one_concept_gives_zero_loss(given: tuple) -> None:
    vectors, table, labels = given
    only = [full_block(slice(0, NUM_VECTORS), 7, 1, torch.zeros_like(labels))]
    loss = cross_entropy_sum(vectors, table, only)
    assert loss.item() == 0
    assert all(not g.any() for g in torch.autograd.grad(loss, (vectors, table)))


def test_no_mention_gives_zero_loss(given: tuple) -> None:
    _, table, _ = given
    nobody = torch.zeros(0, DIMENSION, dtype=torch.float64, requires_grad=True)
    loss = cross_entropy_sum(nobody, table, [])
    loss.backward()
    assert loss.item() == 0 and table.grad is not None and not table.grad.any()


@pytest.mark.usefixtures("chunk")
def test_ranks_count_the_rows_above(given: tuple) -> None:
    vectors, table, labels = given
    blocks = two_types(labels)
    _, label = score(vectors, table, blocks)
    found = num_ranked_above(vectors, table, blocks, label)
    for number, contest in enumerate(blocks):
        rows = table[contest.rows]
        logits = vectors[contest.vectors] @ rows.T
        order = logits.argsort(dim=1, descending=True)
        wanted = (order == contest.columns[:, None]).nonzero()[:, 1]
        assert found[contest.vectors].tolist() == wanted.tolist(), number


def against(drawn: Tensor, shifts: Tensor, columns: Tensor) -> ScoringBlock:
    return ScoringBlock(slice(0, NUM_VECTORS), FIRST + drawn, columns, shifts)


def test_the_sampled_sum_is_unbiased(given: tuple) -> None:
    """The log-Q correction makes the sum over a sample an unbiased one of the sum over all."""
    vectors, table, labels = (part.detach() for part in given)
    vectors = 0.3 * vectors
    whole, label = score(vectors, table, [full_block(slice(0, 9), FIRST, SIZE, labels)])
    sums = torch.zeros(NUM_VECTORS, dtype=torch.float64)
    for seed in range(4000):
        sample = draw(SIZE, 0.3, seed, labels)
        others, same_label = score(vectors, table, [against(*sample)])
        torch.testing.assert_close(same_label, label)
        sums += others.exp()
    torch.testing.assert_close(sums / 4000, whole.exp(), rtol=0.03, atol=0)


def test_a_sample_has_the_labels_once_each_and_some_of_the_rest() -> None:
    labels = torch.tensor([7, 900, 7, 3])
    names, shifts, columns = draw(1000, 0.1, seed=1, labels=labels)
    assert names[:4].tolist() == [3, 7, 7, 900] and columns.tolist() == [1, 3, 1, 0]
    assert shifts[:4].tolist() == [0, 0, -math.inf, 0], "each once"
    rest = names[4:]
    assert len(rest) == 100 and rest.min() < 200 and 800 < rest.max() < 1000
    there = torch.isin(rest, labels)
    assert shifts[4:].exp().tolist() == pytest.approx([0 if is_label else 10 for is_label in there])
    again, other = (draw(1000, 0.1, seed, labels)[0] for seed in (1, 2))
    assert torch.equal(names, again) and not torch.equal(names, other)


def test_draws_are_uniform_and_reproducible() -> None:
    counts = torch.zeros(50, dtype=torch.int64)
    for seed in range(200):
        names, *_ = draw(50, 2.0, seed, torch.tensor([0]))
        counts += names[1:].bincount(minlength=50)
    # 20,000 draws of 50: a standard deviation is 20 at 400 of each.
    assert (counts - 400).abs().max() < 90 and 10 < counts.double().std() < 30
    assert concept_table._hashes(3, 1234567, torch.device("cpu")).tolist() == [
        value & (1 << 63) - 1
        for value in (6457827717110365317, 3203168211198807973, 9817491932198370423)
    ]


def test_drawing_does_not_synchronize_with_the_device() -> None:
    names, shifts, columns = draw(1000, 0.1, 1, torch.tensor([7, 900, 7, 3], device="meta"))
    assert len(names) == len(shifts) == 104 and len(columns) == 4


def test_ties_and_nans_count_against_the_label(given: tuple) -> None:
    vectors, table, labels = given
    for value in (0.0, float("nan")):
        blocks = [full_block(slice(0, 9), FIRST, SIZE, labels)]
        blank = torch.full_like(table, value)
        _, label = score(vectors, blank, blocks)
        assert num_ranked_above(vectors, blank, blocks, label).tolist() == [SIZE - 1] * 9


def test_the_smallest_type_has_a_sample_too() -> None:
    names, shifts, _ = draw(1, 0.1, seed=1, labels=torch.tensor([0]))
    assert names.tolist() == [0, 0] and shifts.tolist() == [0, -math.inf]


def test_a_sample_of_the_label_only_gives_zero_loss(given: tuple) -> None:
    vectors, table, labels = given
    shifts = torch.tensor([0, -math.inf])
    only_itself = against(torch.tensor([3, 3]), shifts, torch.zeros_like(labels))
    loss = cross_entropy_sum(vectors, table, [only_itself])
    assert loss.item() == 0
    assert all(not g.any() for g in torch.autograd.grad(loss, (vectors, table)))
