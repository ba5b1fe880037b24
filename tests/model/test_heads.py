"""The entity head: span means, and P(type) · P(identifier | type)."""

import torch
import torch.nn.functional as F

from embre.model.concept_table import ConceptTable
from embre.model.heads import EntityHead, span_means

SIZES = (3, 0, 2)


def test_span_means_are_the_means_of_spans() -> None:
    hidden = torch.arange(12.0).view(6, 2)
    spans = torch.tensor([[0, 2], [3, 6], [1, 2]])
    expected = torch.stack([hidden[a:b].mean(0) for a, b in spans.tolist()])
    torch.testing.assert_close(span_means(hidden, spans, 6), expected)
    assert span_means(hidden, torch.zeros(0, 2, dtype=torch.long), 0).shape == (0, 2)


def entity_head(sample_above: int = 100) -> EntityHead:
    torch.manual_seed(0)
    table = ConceptTable(SIZES, 4, sample_above, sample_share=0.5)
    return EntityHead(hidden=8, num_types=3, concepts=table).double()


def mentions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, ...]]:
    """Four of the vocabulary, by type, and two of other concepts."""
    vectors = torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    types, ids = torch.tensor([0, 0, 2, 2, 0, 1]), torch.tensor([1, 2, 0, 1, -1, -1])
    return vectors, types, ids, (2, 0, 2)


def test_the_entity_head_is_the_product_of_type_and_identifier() -> None:
    head = entity_head()
    vectors, types, ids, counts = mentions()
    losses = head(vectors, types, ids, counts)
    found = head.project(vectors)
    gene, nothing, chemical = head.concepts.weight.split(list(SIZES))
    wanted = F.cross_entropy(found[:2] @ gene.T, ids[:2], reduction="sum")
    wanted = wanted + F.cross_entropy(found[2:4] @ chemical.T, ids[2:4], reduction="sum")
    torch.testing.assert_close(losses["identifier"], wanted, atol=1e-12, rtol=0)
    by_type = F.cross_entropy(head.types(found), types, reduction="sum")
    torch.testing.assert_close(losses["type"], by_type, atol=1e-12, rtol=0)
    assert losses.keys() == {"type", "identifier"} and len(nothing) == 0


def test_evaluation_returns_ranks_and_correct_types() -> None:
    head = entity_head()
    vectors, types, ids, counts = mentions()
    with torch.no_grad():
        found = head(vectors, types, ids, counts)
    assert found["right/type"].shape == (6,) and found["rank/identifier"].shape == (4,)
    gene = head.concepts.weight[:3]
    logits = head.project(vectors[:2]) @ gene.T
    wanted = [(row > row[label]).sum().item() + 1 for row, label in zip(logits, ids, strict=False)]
    assert found["rank/identifier"][:2].tolist() == wanted


def test_a_large_type_is_trained_against_a_sample_and_measured_against_all() -> None:
    whole, sampled = entity_head(), entity_head(sample_above=2)
    vectors, types, ids, counts = mentions()

    def loss(head: EntityHead, seed: int) -> float:
        torch.manual_seed(seed)
        return head(vectors, types, ids, counts)["identifier"].item()

    def measured(head: EntityHead) -> float:
        with torch.no_grad():
            return loss(head, 1)

    assert loss(sampled, 1) == loss(sampled, 1), "the sample comes out of the random state"
    assert len({round(loss(sampled, seed), 9) for seed in range(20)}) > 1
    assert measured(sampled) == measured(whole)
