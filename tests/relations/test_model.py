"""The relation model: invariances, losses, memory, learning."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from embre.config import CorpusConfig, OptimizerConfig, PairConfig
from embre.demo.corpus import make_corpus
from embre.document import Document
from embre.engines.torch_engine import TorchEngine
from embre.entity_types import ENTITY_TYPES
from embre.evaluation.scoring import METRICS, score
from embre.relations import localized_context
from embre.relations import model as relation_model
from embre.relations.decode import predict
from embre.relations.document_loader import DocumentLoader
from embre.relations.localized_context import log_distances
from embre.relations.location_codes import NUM_EIGHTHS, NUM_MENTION_COUNTS, NUM_PROXIMITIES
from embre.relations.markers import marker_ids
from embre.relations.model import concept_vectors, init_markers
from embre.relations.model_folder import LoadedModel
from embre.relations.pair_batch import PairBatch, PassIndices
from embre.relations.pair_labels import NOVEL, UNRELATED
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
def loaded(folder: Path) -> LoadedModel:
    return tiny_relation_model(folder)


def batch_of(loaded: LoadedModel, docs: list[Document], slot: int = 0) -> PairBatch:
    passes = [one for doc in docs for one in loaded.builder.passes(doc, Tally())]
    return loaded.builder.collate(passes, slot)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


WAYS = [
    {},
    {"encoding": "pairwise"},
    {"attention": "entity_aware"},
    {"detection_head": "relation", "loss": "adaptive_threshold"},
    {"detection_head": "relation"},
    {"tasks": "novelty"},
]


def awake(loaded: LoadedModel) -> LoadedModel:
    """Biases of attention that do something: they begin at zero."""
    if loaded.model.entities is not None:
        for parameter in loaded.model.entities.parameters():
            nn.init.normal_(parameter)
    return loaded


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_order_of_a_pair_does_not_matter(folder: Path, way: dict[str, str]) -> None:
    loaded = awake(tiny_relation_model(folder, **way))
    batch = batch_of(loaded, DOCS)
    found = loaded.model.probabilities(batch)
    indices = batch.indices._replace(pairs=batch.indices.pairs.flip(2))
    swapped = replace(batch, pairs=batch.pairs.flip(1), indices=indices)
    for one, other in zip(found, loaded.model.probabilities(swapped), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_results_do_not_depend_on_the_other_documents(folder: Path, way: dict[str, str]) -> None:
    loaded = awake(tiny_relation_model(folder, **way))
    together = loaded.model.probabilities(batch_of(loaded, DOCS))
    alone = [loaded.model.probabilities(batch_of(loaded, [doc])) for doc in (DOCS[0], DOCS[2])]
    for found, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert_close(torch.cat(parts), found)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_illegal_types_have_no_probability(folder: Path, way: dict[str, str]) -> None:
    loaded = tiny_relation_model(folder, **way)
    batch = batch_of(loaded, DOCS)
    found, legal = loaded.model.probabilities(batch), batch.legal[:, 1:]
    assert bool((found.types[~legal] == 0).all())
    if way.get("tasks") == "novelty":  # the first legal type is certain
        assert found.types.argmax(1).tolist() == legal.int().argmax(1).tolist()
    else:
        assert bool((found.types[legal] > 0).all())
    assert_close(found.types.sum(1), torch.ones(len(legal)))
    assert bool(((found.related > 0) & (found.related < 1)).all())


def test_location_codes_are_features_and_positions_only_of_novelty(loaded: LoadedModel) -> None:
    batch = batch_of(loaded, DOCS)
    relation, novelty = loaded.model.logits(batch)
    for column, size in enumerate((NUM_PROXIMITIES, NUM_MENTION_COUNTS, NUM_EIGHTHS, NUM_EIGHTHS)):
        others = batch.locations.clone()
        others[:, column] = (others[:, column] + 1) % size
        other_relation, other_novelty = loaded.model.logits(replace(batch, locations=others))
        assert torch.equal(relation, other_relation) == (column > 1)
        assert not torch.allclose(novelty, other_novelty)


def test_losses_are_sums_over_their_targets(folder: Path) -> None:
    loaded = tiny_relation_model(folder, detection_head="relation", type_weight=0.5)
    batch = batch_of(loaded, DOCS)
    losses = loaded.model(batch)
    alone = [loaded.model(batch_of(loaded, [doc])) for doc in (DOCS[0], DOCS[2])]
    assert loaded.model.loss_weights == {"relation": 1.0, "type": 0.5, "novelty": 1.0}
    for name in loaded.model.loss_weights:
        assert_close(losses[name], torch.stack([one[name] for one in alone]).sum())
    found = loaded.model.probabilities(batch)
    of_types = found.related[:, None] * found.types
    labels = torch.cat([1 - found.related[:, None], of_types], dim=1)
    picked = labels.gather(1, batch.relation_labels[:, None])
    assert_close(losses["relation"], -picked.log().sum())
    related = batch.relation_labels > 0
    right_type = found.types[related, batch.relation_labels[related] - 1]
    assert_close(losses["type"], -right_type.log().sum())
    known = batch.novelty_labels >= 0
    right = torch.where(batch.novelty_labels == NOVEL, found.novel, 1 - found.novel)[known]
    assert batch.counts == {"relation": len(batch.pairs), "type": 2, "novelty": 2}
    assert_close(losses["novelty"], -right.log().sum())


def test_single_task_models(folder: Path) -> None:
    relation = tiny_relation_model(folder, tasks="relation")
    assert relation.model.loss_weights == {"relation": 1.0, "type": 0.3}
    paper = tiny_relation_model(folder, detection_head="relation", type_weight=0.0)
    assert paper.model.loss_weights == {"relation": 1.0, "novelty": 1.0}
    one_type = tiny_relation_model(folder, corpus="bc5cdr", tasks="relation")
    assert one_type.model.loss_weights == {"relation": 1.0}
    assert bool(relation.model.probabilities(batch_of(relation, DOCS)).novel.isnan().all())
    novelty = tiny_relation_model(folder, tasks="novelty")
    assert novelty.model.loss_weights == {"novelty": 1.0}
    batch = batch_of(novelty, DOCS)
    found = novelty.model.probabilities(batch)
    assert batch.counts["novelty"] == len(batch.pairs)
    labels = torch.stack(
        [1 - found.related, found.related * (1 - found.novel), found.related * found.novel], dim=1
    )
    picked = labels.gather(1, batch.novelty_labels[:, None])
    assert_close(novelty.model(batch)["novelty"], -picked.log().sum())
    with pytest.raises(ValueError, match="detection_head"):
        PairConfig(tasks="novelty", detection_head="relation")


def test_the_novelty_head_detects_relations(folder: Path) -> None:
    loaded = tiny_relation_model(folder)
    assert loaded.model.loss_weights == {"type": 0.3, "novelty": 1.0}
    batch = batch_of(loaded, DOCS)
    relation, novelty = loaded.model.logits(batch)
    found, shares = loaded.model.probabilities(batch), novelty.softmax(1)
    assert_close(found.related, 1 - shares[:, UNRELATED])
    assert_close(found.novel, shares[:, NOVEL] / found.related)
    assert_close(found.types, relation[:, 1:].softmax(1))
    alone = tiny_relation_model(folder, tasks="relation")
    relation, _ = alone.model.logits(batch)
    assert_close(alone.model.probabilities(batch).related, 1 - relation.softmax(1)[:, 0])
    for given, said in (
        ({"loss": "adaptive_threshold"}, "needs detection_head=relation"),
        ({"type_weight": 0}, "no other loss trains types"),
    ):
        with pytest.raises(ValueError, match=said):
            PairConfig.model_validate(given)


def test_untrained_entity_attention_is_plain_attention(folder: Path) -> None:
    plain, aware = (
        tiny_relation_model(folder),
        tiny_relation_model(folder, attention="entity_aware"),
    )
    aware.model.load_state_dict(plain.model.state_dict(), strict=False)
    batch = batch_of(plain, DOCS)
    for one, other in zip(
        plain.model.probabilities(batch), aware.model.probabilities(batch), strict=True
    ):
        assert_close(one, other)


def test_an_empty_micro_batch_adds_nothing(loaded: LoadedModel) -> None:
    empty = loaded.builder.collate([], slot=-1)
    assert empty.doc_ids == ()
    assert empty.counts == {"relation": 0, "type": 0, "novelty": 0}
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


@torch.no_grad()
def states_one_by_one(loaded: LoadedModel, doc: Document) -> torch.Tensor:
    """The states of plain BERT on each window alone, for each token the mean over its windows."""
    (one,), (first, last) = loaded.builder.passes(doc, Tally()), (0, -1)
    special = loaded.builder.tokenizer.special
    sums = torch.zeros(len(one.tokens) + 2, loaded.model.bert.config.hidden_size)
    times = torch.zeros(len(sums), 1)
    for start, end in one.windows:
        strip = [special.cls, *one.tokens[start:end].tolist(), special.sep]
        rows = [first, *range(start + 1, end + 1), last]
        sums[rows] += loaded.model.bert(torch.tensor([strip])).last_hidden_state[0]
        times[rows] += 1
    return sums / times


def test_a_document_in_windows_has_the_mean_state_of_each_token(folder: Path) -> None:
    doc = document(" and ".join(f"<braf|Gene|{n}> causes <melanoma|Disease|D1>" for n in range(9)))
    tight, wide = tiny_relation_model(folder, 16, 6), tiny_relation_model(folder, 128, 6)
    states = {}
    for loaded, num_windows in ((tight, 16), (wide, 1)):
        batch = batch_of(loaded, [doc])
        assert len(batch.cu_seqlens) - 1 == num_windows
        states[num_windows] = loaded.model._document_states(batch)
        assert_close(states[num_windows], states_one_by_one(loaded, doc))
    assert not torch.allclose(states[16], states[1]), "windows see less"


def test_window_size_does_not_matter_to_documents_that_fit(folder: Path) -> None:
    narrow, wide = tiny_relation_model(folder, 24, 8), tiny_relation_model(folder, 128, 100)
    one, other = (loaded.model.logits(batch_of(loaded, DOCS)) for loaded in (narrow, wide))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    cut = tiny_relation_model(folder, 14, 6)
    assert len(batch_of(cut, DOCS).cu_seqlens) - 1 > 2
    assert cut.model.logits(batch_of(cut, DOCS))[0].shape == one[0].shape, "no pair is lost"


class Largest(TorchDispatchMode):
    """The most elements of any tensor that is made within."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        made = [one for one in tree_leaves(found) if isinstance(one, torch.Tensor)]
        self.elements = max([self.elements, *(one.numel() for one in made)])
        return found


def test_memory_does_not_grow_with_pairs_times_tokens(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genes = [f"<braf|Gene|{n}>" for n in range(38)] * 3
    ills = " and ".join(f"<melanoma|Disease|D{n}>" for n in range(4))
    loaded = tiny_relation_model(folder, 24, 8)
    batch = batch_of(loaded, [document(f"{' and '.join(genes)} causes {ills}")])
    scores = batch.num_pass_tokens * loaded.model.context.heads  # of a concept, or of a pair
    assert len(batch.pairs) == 855, "as many as the most of a BioRED document, 30836660"
    monkeypatch.setattr(localized_context, "MAX_SCORES", 1 << 16)
    monkeypatch.setattr(relation_model, "PAIRS_AT_ONCE", 256)
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with Largest() as largest, saved_tensors_hooks(keep, lambda tensor: tensor):
        sum(loaded.model(batch).values()).backward()  # type: ignore[union-attr]
    loaded.model.zero_grad()
    read = 3 * len(batch.pairs) * loaded.model.bert.config.hidden_size  # by the perceptrons
    assert largest.elements <= max(scores * len(batch.concept_types), read)
    # Kept all at once, the three attentions alone would be three times the scores of pairs.
    assert sum(saved.values()) < 2 * scores * len(batch.pairs)


def test_chunks_of_pairs_change_nothing(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients() -> list[torch.Tensor]:
        loaded.model.zero_grad()
        sum(loaded.model(batch_of(loaded, DOCS)).values()).backward()  # type: ignore[union-attr]
        return [p.grad.clone() for p in loaded.model.parameters() if p.grad is not None]

    at_once = gradients()
    rows = []
    loaded.model.relation.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    chunks = ((localized_context, "MAX_SCORES", 1), (relation_model, "PAIRS_AT_ONCE", 3))
    for module, constant, size in chunks:
        monkeypatch.setattr(module, constant, size)
        for chunked, expected in zip(gradients(), at_once, strict=True):
            assert_close(chunked, expected)
    assert max(rows) == rows[0] > 3 and rows[1:].count(3) > 1 and sum(rows[1:]) == rows[0]
    loaded.model.zero_grad()


def test_new_markers_start_near_the_names_of_their_types(folder: Path) -> None:
    loaded = tiny_relation_model(folder)
    tokenizer = loaded.builder.tokenizer
    rows = loaded.model.bert.embeddings.word_embeddings.weight
    expected = rows.detach().clone()
    for both, name in zip(marker_ids(tokenizer).tolist(), ENTITY_TYPES, strict=True):
        words = {"CellLine": "cell line"}.get(name, name)
        pieces = tokenizer.backend.encode(words, add_special_tokens=False).ids
        expected[both] += expected[pieces].mean(0)
    init_markers(loaded.model, tokenizer)
    assert_close(rows.detach(), expected)


def test_concept_vectors_do_not_depend_on_the_number_of_mentions() -> None:
    states = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    spots = torch.arange(40)
    once = torch.stack([spots[:1], spots[:1] + 1, torch.zeros(1).long()], dim=1)
    again = once.repeat(9, 1)
    assert_close(concept_vectors(states, again, 9, 1), concept_vectors(states, once, 1, 1))


def test_pooling_and_distances_of_concepts() -> None:
    states = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 100.0], [1.0, 1.0]])
    mentions = torch.tensor([[0, 2, 0], [2, 3, 0], [3, 4, 1]])
    of_mentions = torch.stack([states[:2].mean(0), states[2]])
    expected = torch.stack([torch.logsumexp(of_mentions, 0) - math.log(2), states[3]])
    assert_close(concept_vectors(states, mentions, 4, 2), expected)
    tokens = torch.tensor([[0, 1, 2, 3, 4], [5, -1, -1, -1, -1]])
    concepts = torch.tensor([[0, -1], [1, -1]])
    indices = PassIndices(tokens, concepts, concepts, concepts, torch.tensor([0, 1]))
    found = log_distances(torch.tensor([[1, 3, 0], [5, 6, 1]]), 2, indices)
    assert_close(found[0, 0], torch.tensor([1.0, 0.0, 0.0, 1.0, 2.0]).log1p())
    assert_close(found[1, 0, :1], torch.zeros(1))


def test_distances_are_computed_in_chunks_of_mentions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.arange(400)
    starts = torch.randperm(400, generator=generator)
    mentions = torch.stack([starts, starts + 1, tokens % 3], dim=1)
    concepts = torch.tensor([[0, 1, 2]])
    indices = PassIndices(tokens[None], concepts, concepts, concepts, torch.zeros(3).long())
    monkeypatch.setattr(localized_context, "MAX_SCORES", 2000)
    with Largest() as largest:
        found = log_distances(mentions, 3, indices)
    assert largest.elements == 2000
    for concept in range(3):
        spots = mentions[mentions[:, 2] == concept, 0]
        nearest = (tokens[:, None] - spots).abs().min(1).values
        assert torch.equal(found[0, concept], nearest.float().log1p())


def test_a_window_too_long_for_the_encoder_is_refused(folder: Path) -> None:
    loaded = tiny_relation_model(folder, max_document_tokens=500)
    with pytest.raises(ValueError, match="max_document_tokens"):
        text = "<braf|Gene|1> and <gene|Gene|2>" + " a study" * 100
        loaded.model.probabilities(batch_of(loaded, [document(text)]))


def engine_of(loaded: LoadedModel) -> TorchEngine:
    """Without dropout."""
    for module in loaded.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return TorchEngine(loaded.model, OptimizerConfig(), loaded.model.loss_weights, World(), 1)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_it_learns(folder: Path, way: dict[str, str]) -> None:
    loaded = tiny_relation_model(folder, **way)
    data = CorpusConfig(train="-", dev="-", passes_per_micro_batch=3, micro_batches=1)
    loader = DocumentLoader(DOCS, loaded.builder, data, 1, World(), Tally())
    engine = engine_of(loaded)
    results = [engine.step(loader.step(), step, lr=3e-3) for step in range(30)]
    for name in loaded.model.loss_weights:
        curve = [result.losses[name] for result in results if name in result.losses]
        assert curve[0] > 0.3
        assert curve[-1] < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("way", [{}, *WAYS[1:4]], ids=str)
def test_it_overfits_eight_documents(tmp_path: Path, way: dict[str, str]) -> None:
    docs = make_corpus(8, seed=3)
    tiny_tokenizer(tmp_path, [doc.text for doc in docs], size=500)
    loaded = tiny_relation_model(tmp_path, **way)
    data = CorpusConfig(train="-", dev="-", passes_per_micro_batch=8, micro_batches=1)
    loader = DocumentLoader(docs, loaded.builder, data, 1, World(), Tally())
    engine = engine_of(loaded)
    num_steps = 160
    for step in range(num_steps):
        engine.step(loader.step(), step, lr=2e-3 * (1 - step / num_steps))
    found = list(predict(loaded, docs))
    assert {metric: one.f1 for metric, one in score(docs, found).items()} == dict.fromkeys(
        METRICS, 1.0
    )


def test_logits_are_float32_under_autocast(loaded: LoadedModel) -> None:
    loaded.model.half_precision = True
    try:
        scored = loaded.model.logits(batch_of(loaded, DOCS))
    finally:
        loaded.model.half_precision = False
    for logits in scored:
        known = logits[logits.isfinite()].detach()
        assert known.dtype == torch.float32 and not torch.equal(known, known.bfloat16().float())
