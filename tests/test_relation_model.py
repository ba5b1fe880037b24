"""The relation model treats pairs, documents and windows as it says."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from embre import relation_model
from embre.config import CorpusConfig, OptimizerConfig
from embre.document import Document
from embre.document_loader import DocumentLoader
from embre.engine import TorchEngine
from embre.pairs import PairBatch
from embre.relation_folder import LoadedModel
from embre.relation_model import LOSS_WEIGHTS, concept_vectors, log_distances
from embre.tally import Tally
from embre.world import World
from tests.tiny import document, tiny_relation_model, tiny_tokenizer

DOCS = [
    document(
        "<braf|Gene|673> causes <melanoma|Disease|D1> and <a gene|Gene|2> treats <braf|Gene|673>",
        [("Gene:673", "Disease:D1", "Positive_Correlation", True)],
    ),
    document("a study of the mice"),
    document(
        "<aspirin|Chemical|D2> and <mice|Chemical|D3> with <melanoma|Disease|D1>",
        [("Chemical:D2", "Chemical:D3", "Cotreatment", False)],
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("bert")
    tiny_tokenizer(found)
    return found


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return tiny_relation_model(folder)


def batch_of(loaded: LoadedModel, docs: list[Document], slot: int = 0) -> PairBatch:
    return loaded.encoder.lay([loaded.encoder.encode(doc, Tally()) for doc in docs], slot)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_order_of_a_pair_does_not_matter(loaded: LoadedModel) -> None:
    batch = batch_of(loaded, DOCS)
    labels, novel = loaded.model.probabilities(batch)
    swapped = loaded.model.probabilities(replace(batch, pairs=batch.pairs.flip(1)))
    assert_close(swapped[0], labels)
    assert_close(swapped[1], novel)


def test_documents_together_are_as_each_alone(loaded: LoadedModel) -> None:
    labels, novel = loaded.model.probabilities(batch_of(loaded, DOCS))
    alone = [loaded.model.probabilities(batch_of(loaded, [doc])) for doc in DOCS]
    assert_close(torch.cat([one for one, _ in alone]), labels)
    assert_close(torch.cat([one for _, one in alone]), novel)


def test_illegal_labels_have_no_probability(loaded: LoadedModel) -> None:
    batch = batch_of(loaded, DOCS)
    labels, _ = loaded.model.probabilities(batch)
    assert bool((labels[~batch.legal] == 0).all()) and bool((labels[batch.legal] > 0).all())
    assert_close(labels.sum(1), torch.ones(len(labels)))


def test_losses_are_sums_over_their_targets(loaded: LoadedModel) -> None:
    batch = batch_of(loaded, DOCS)
    losses = loaded.model(batch)
    alone = [loaded.model(batch_of(loaded, [doc])) for doc in DOCS]
    for name in LOSS_WEIGHTS:
        assert_close(losses[name], torch.stack([one[name] for one in alone]).sum())
    labels, novel = loaded.model.probabilities(batch)
    picked = labels.gather(1, batch.relation_labels[:, None])
    assert_close(losses["relation"], -picked.log().sum())
    known = batch.novelty_labels >= 0
    right = torch.where(batch.novelty_labels == 1, novel, 1 - novel)[known]
    assert batch.counts == {"relation": len(batch.pairs), "novelty": 2}
    assert_close(losses["novelty"], -right.log().sum())


def test_an_empty_micro_batch_adds_nothing(loaded: LoadedModel) -> None:
    empty = loaded.encoder.lay([], slot=-1)
    assert empty.counts == {"relation": 0, "novelty": 0}
    loaded.model.zero_grad()
    sum(loaded.model(empty).values()).backward()  # type: ignore[union-attr]
    gradients = [p.grad for p in loaded.model.parameters()]
    assert all(grad is not None and not grad.any() for grad in gradients)
    loaded.model.zero_grad()


def test_every_weight_is_trained(loaded: LoadedModel) -> None:
    loaded.model.zero_grad()
    sum(loaded.model(batch_of(loaded, DOCS)).values()).backward()  # type: ignore[union-attr]
    still = {n for n, p in loaded.model.named_parameters() if p.grad is None or not p.grad.any()}
    # A bias on all scores of a softmax, or on all keys of it, changes nothing.
    assert {name for name in still if not name.endswith("key.bias")} == set()
    loaded.model.zero_grad()


def test_a_document_in_windows(folder: Path) -> None:
    """A document in windows has the same pairs; one read twice gives what one read once gives."""
    whole, cut = tiny_relation_model(folder, 128), tiny_relation_model(folder, 14, 6)
    batch = batch_of(cut, DOCS)
    assert len(batch.boundaries) - 1 > len(DOCS)
    labels, _ = cut.model.probabilities(batch)
    assert labels.shape == whole.model.probabilities(batch_of(whole, DOCS))[0].shape
    twice = batch_of(whole, DOCS[:1])
    copy = replace(
        twice,
        input_ids=twice.input_ids.repeat(2),
        positions=twice.positions.repeat(2),
        reads=twice.reads.repeat(2),
        boundaries=torch.tensor([0, twice.longest, 2 * twice.longest], dtype=torch.int32),
    )
    assert_close(whole.model.probabilities(copy)[0], whole.model.probabilities(twice)[0])


def test_chunks_of_pairs_change_nothing(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients() -> list[torch.Tensor]:
        loaded.model.zero_grad()
        sum(loaded.model(batch_of(loaded, DOCS)).values()).backward()  # type: ignore[union-attr]
        return [p.grad.clone() for p in loaded.model.parameters() if p.grad is not None]

    at_once = gradients()
    monkeypatch.setattr(relation_model, "CHUNK_SCORES", 1)
    for chunked, expected in zip(gradients(), at_once, strict=True):
        assert_close(chunked, expected)
    loaded.model.zero_grad()


def test_pooling_and_distances_of_concepts() -> None:
    states = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 100.0], [1.0, 1.0]])
    mentions = torch.tensor([[0, 0], [2, 0], [3, 1]])
    expected = torch.stack([torch.logsumexp(states[[0, 2]], 0), states[3]])
    assert_close(concept_vectors(states, mentions, 2), expected)
    size = relation_model.Sizes(tokens=4, mentions=3, concepts=2, pairs=1)
    nearest = torch.tensor([[0.0, 1.0, 0.0, 1.0], [3.0, 2.0, 1.0, 0.0]])
    assert_close(log_distances(mentions, size), nearest.log1p())


def test_a_window_too_long_for_the_encoder_is_refused(folder: Path) -> None:
    loaded = tiny_relation_model(folder, max_document_tokens=500)
    with pytest.raises(ValueError, match="max_document_tokens"):
        loaded.model.probabilities(batch_of(loaded, [document("a study " * 100)]))


def test_it_learns(folder: Path) -> None:
    loaded = tiny_relation_model(folder)
    data = CorpusConfig(train="-", dev="-", documents_per_micro_batch=3, micro_batches=1)
    loader = DocumentLoader(DOCS, loaded.encoder, data, 1, World(), Tally())
    for module in loaded.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    engine = TorchEngine(loaded.model, OptimizerConfig(peak_lr=1e-3), LOSS_WEIGHTS, World(), 1)
    results = [engine.step(loader.step(), step, lr=3e-3) for step in range(30)]
    assert results[0].losses["relation"] > 0.5
    assert results[-1].losses["relation"] < 0.1 and results[-1].losses["novelty"] < 0.1
