"""Documents become marked windows and candidate pairs, and no pair is lost on the way."""

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from embre.config import CorpusConfig, PairConfig
from embre.corpora import CORPORA, read_documents
from embre.demo.corpus import make_corpus
from embre.document import Concept, Document, Passage
from embre.entity_types import TYPE_INDEX
from embre.relations.document_loader import DocumentLoader
from embre.relations.entity_attention import NUM_SLOTS
from embre.relations.location_codes import (
    FARTHER,
    NEXT_SENTENCE,
    NUM_MENTION_COUNTS,
    NUM_PROXIMITIES,
    SAME_SENTENCE,
)
from embre.relations.markers import MARKERS, add_markers, cut_windows, mark, marker_ids
from embre.relations.pair_batch import PairBatch
from embre.relations.pair_labels import NOT_NOVEL, NOVEL, RELATED, UNLABELLED, UNRELATED
from embre.relations.pass_builder import PassBuilder
from embre.relations.passes import Pass
from embre.tally import Tally
from embre.tokenization.tokenizer import load_tokenizer
from embre.world import World
from tests.tiny import document, tiny_tokenizer

SCHEMA = CORPORA["biored"]
DRUG = "<aspirin|Chemical|D001241> treats <melanoma|Disease|D008545> in <mice|Species|10090>"
TREATS = ("Chemical:D001241", "Disease:D008545", "Negative_Correlation", True)


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> PassBuilder:
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return PassBuilder.build(tokenizer, SCHEMA, 24, PairConfig(window_overlap=8))


def pass_of(builder: PassBuilder, doc: Document, tally: Tally | None = None) -> Pass:
    (found,) = builder.passes(doc, tally or Tally())
    return found


def words(builder: PassBuilder, ids: np.ndarray) -> str:
    return " ".join(builder.tokenizer.backend.id_to_token(int(i)) for i in ids)


def long_document(num_genes: int) -> Document:
    genes = " and ".join(f"<braf {i}|Gene|{i}>" for i in range(num_genes))
    return document(f"{genes} causes <melanoma|Disease|D1>")


def test_markers_come_after_the_vocabulary(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    marked = add_markers(tokenizer)
    ids = marker_ids(marked)
    assert ids.reshape(-1).tolist() == list(range(tokenizer.vocabulary, tokenizer.vocabulary + 12))
    assert marked.vocabulary == tokenizer.vocabulary + len(MARKERS)
    assert add_markers(marked).vocabulary == marked.vocabulary
    with pytest.raises(ValueError, match="add_markers"):
        marker_ids(tokenizer)


def test_text_that_spells_a_marker_is_plain_text(builder: PassBuilder) -> None:
    encoded = pass_of(builder, document("the [Gene] <braf|Gene|1> and <gene|Gene|2>"))
    assert words(builder, encoded.tokens).startswith("the [ gene ] [Gene] braf [/Gene] and")


def test_every_mention_is_marked(builder: PassBuilder) -> None:
    encoded = pass_of(builder, document(DRUG))
    assert words(builder, encoded.tokens) == (
        "[Chemical] aspirin [/Chemical] treats [Disease] melanoma [/Disease] "
        "in [Species] mice [/Species]"
    )
    assert [str(concept) for concept in encoded.concepts] == [
        "Chemical:D001241",
        "Disease:D008545",
        "Species:10090",
    ]
    assert encoded.mentions.tolist() == [[0, 3, 0], [4, 7, 1], [8, 11, 2]]


def test_a_mention_of_two_concepts_has_one_pair_of_markers(builder: PassBuilder) -> None:
    encoded = pass_of(builder, document("<gene|Gene|1,2> and <braf|Gene|->"))
    assert words(builder, encoded.tokens) == "[Gene] gene [/Gene] and [Gene] braf [/Gene]"
    assert encoded.mentions.tolist() == [[0, 3, 0], [0, 3, 1]]


def test_nested_and_touching_mentions() -> None:
    ids = np.array([[100, 101], [200, 201]])
    marked, places = mark(np.array([1, 2, 3]), [(0, 1, 0), (0, 2, 0), (0, 2, 1), (2, 3, 1)], ids)
    assert marked.tolist() == [100, 200, 100, 1, 101, 2, 201, 101, 200, 3, 201]
    assert places.tolist() == [[2, 5], [0, 8], [1, 7], [8, 11]]


def test_labels_of_candidates(builder: PassBuilder) -> None:
    encoded = pass_of(builder, document(DRUG, [TREATS]))
    assert encoded.pairs.tolist() == [[0, 1]]  # species have no relations in BioRED
    assert encoded.relation_labels.tolist() == [SCHEMA.labels.index("Negative_Correlation")]
    assert encoded.novelty_labels.tolist() == [NOVEL]
    legal = {
        label for label, allowed in zip(SCHEMA.labels, encoded.legal[0], strict=True) if allowed
    }
    assert legal == {"None", "Association", "Positive_Correlation", "Negative_Correlation"}


def test_positions_of_the_first_and_last_meeting(builder: PassBuilder) -> None:
    drug, illness, gene = "<Aspirin|Chemical|D1>", "<Melanoma|Disease|D2>", "<Braf|Gene|3>"
    sentences = ["It is so."] * 17
    for place in (0, 9, 15):
        sentences[place] = f"{drug} treats {illness}."
    sentences[16] = f"{gene} is known."
    encoded = pass_of(builder, document(" ".join(sentences)))
    ends = {
        tuple(sorted(encoded.concepts[place].identifier for place in pair)): codes[2:]
        for pair, codes in zip(encoded.pairs.tolist(), encoded.locations.tolist(), strict=True)
    }
    assert ends == {("D1", "D2"): [0, 7], ("3", "D1"): [7, 7], ("3", "D2"): [7, 7]}
    sentences[15] = sentences[0] = sentences[16]
    encoded = pass_of(builder, document(" ".join(sentences)))
    assert encoded.locations[:, 2:].tolist() == [[4, 4], *[[4, 7]] * 2]  # 9, and 15 of 16


def test_proximity_and_mention_counts(builder: PassBuilder) -> None:
    drug, illness, gene = "<Aspirin|Chemical|D1>", "<Melanoma|Disease|D2>", "<Braf|Gene|3>"
    once = f"{drug} treats {illness}. {gene} is known. This is far."
    # The gene comes next to both, and the second gene is two sentences from all but the first.
    for times, near in ((1, SAME_SENTENCE), (2, SAME_SENTENCE + 1), (4, NUM_PROXIMITIES - 1)):
        text = " ".join([f"{drug} treats {illness}."] * (times - 1) + [once, "<Gene|Gene|4> too."])
        encoded = pass_of(builder, document(text))
        found = {
            tuple(encoded.concepts[place].identifier for place in pair): codes[:2]
            for pair, codes in zip(encoded.pairs.tolist(), encoded.locations.tolist(), strict=True)
        }
        assert {tuple(sorted(pair)): codes for pair, codes in found.items()} == {
            ("D1", "D2"): [near, times],
            ("3", "D1"): [NEXT_SENTENCE, 1],
            ("3", "D2"): [NEXT_SENTENCE, 1],
            ("3", "4"): [FARTHER, 1],
            ("4", "D1"): [FARTHER, 1],
            ("4", "D2"): [FARTHER, 1],
        }
    many = " ".join([f"{drug} treats {illness}."] * 9)
    codes = pass_of(builder, document(many)).locations[:, :2]
    assert codes.tolist() == [[NUM_PROXIMITIES - 1, NUM_MENTION_COUNTS - 1]]


def test_unusable_gold_relations_are_counted(builder: PassBuilder) -> None:
    drug, illness, animal = "Chemical:D001241", "Disease:D008545", "Species:10090"
    relations = [
        (drug, drug, "Association", True),
        (illness, animal, "Association", True),
        (drug, illness, "Bind", False),
        (illness, drug, "Conversion", True),
    ]
    tally = Tally()
    encoded = pass_of(builder, document(DRUG, relations), tally)
    assert tally.counts == {
        "relation/with_itself": 1,
        "relation/not_a_candidate_pair": 1,
        "relation/illegal_type": 2,
    }
    assert encoded.relation_labels.tolist() == [UNLABELLED]
    assert encoded.novelty_labels.tolist() == [NOT_NOVEL]


def test_a_legal_relation_wins_over_illegal_ones_of_its_pair(builder: PassBuilder) -> None:
    drug, illness = "Chemical:D001241", "Disease:D008545"
    legal = (drug, illness, "Association", True)
    second, illegal = (drug, illness, "Negative_Correlation", False), (drug, illness, "Bind", False)
    for relations in ([illegal, legal, second], [legal, second, illegal], [legal, illegal, second]):
        tally = Tally()
        encoded = pass_of(builder, document(DRUG, relations), tally)
        assert encoded.relation_labels.tolist() == [builder.schema.labels.index("Association")]
        assert encoded.novelty_labels.tolist() == [NOVEL]
        assert tally.counts == {"relation/illegal_type": 1, "relation/second_of_its_pair": 1}


def pairwise(builder: PassBuilder) -> PassBuilder:
    return replace(builder, config=builder.config.model_copy(update={"encoding": "pairwise"}))


def test_pairwise_has_a_pass_for_each_pair_with_its_mentions_marked(builder: PassBuilder) -> None:
    doc = document(
        f"{DRUG} and <braf|Gene|1,2> <a gene|Gene|->",
        [TREATS, ("Gene:1", "Gene:2", "Bind", False)],
    )
    whole, passes = pass_of(builder, doc), list(pairwise(builder).passes(doc, Tally()))
    assert len(passes) == len(whole.pairs) == 6
    for place, one in enumerate(passes):
        first, second = (whole.concepts[c] for c in whole.pairs[place])
        assert one.concepts == (first, second) and one.pairs.tolist() == [[0, 1]]
        assert one.relation_labels.tolist() == [whole.relation_labels[place]]
        assert one.novelty_labels.tolist() == [whole.novelty_labels[place]]
        assert one.legal.tolist() == [whole.legal[place].tolist()]
    assert words(builder, passes[0].tokens) == (
        "[Chemical] aspirin [/Chemical] treats [Disease] melanoma [/Disease] "
        "in mice and braf a gene"
    )
    shared = passes[-1]  # two concepts of one mention: one pair of markers, both concepts there
    assert words(builder, shared.tokens).endswith("in mice and [Gene] braf [/Gene] a gene")
    assert shared.mentions.tolist() == [[6, 9, 0], [6, 9, 1]]


def test_passes_are_made_one_at_a_time(
    builder: PassBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = [], PassBuilder._pass_of_pair
    monkeypatch.setattr(
        PassBuilder, "_pass_of_pair", lambda *given: made.append(given[2]) or real(*given)
    )
    found = pairwise(builder).passes(long_document(9), Tally())
    assert isinstance(found, Iterator) and next(found) and made == [0]


def test_passages_that_are_not_encoded_do_not_count_in_locations(builder: PassBuilder) -> None:
    text = "<braf|Gene|1> in mice. <Melanoma|Disease|D1>."
    one, both = document(text), document(f"{text} <braf|Gene|1> <melanoma|Disease|D1>")
    end = len(one.text)
    passages = (Passage(0, end, "abstract"), Passage(end, len(both.text), "table"))
    whole = pass_of(builder, replace(both, passages=passages))
    assert whole.locations.tolist() == pass_of(builder, one).locations.tolist()
    assert whole.locations[0, :2].tolist() == [NEXT_SENTENCE, 1]


def test_a_document_without_pairs_has_no_pass(builder: PassBuilder) -> None:
    for found in (builder, pairwise(builder)):
        for doc in (document("<braf|Gene|1> and <mice|Species|2>"), document("")):
            assert list(found.passes(doc, Tally())) == []


def test_novelty_of_all_pairs_has_a_label_for_unrelated_ones(builder: PassBuilder) -> None:
    doc = document(f"{DRUG} <braf|Gene|1>", [TREATS])
    of_all = pass_of(builder, doc)
    assert of_all.novelty_labels.tolist() == [NOVEL, UNRELATED, UNRELATED]
    untold = document(f"{DRUG} <braf|Gene|1>", [(*TREATS[:3], None)])
    assert pass_of(builder, untold).novelty_labels.tolist() == [RELATED, UNRELATED, UNRELATED]
    config = builder.config.model_copy(update={"detection_head": "relation"})
    of_related = pass_of(replace(builder, config=config), doc)
    assert of_related.novelty_labels.tolist() == [NOVEL, UNLABELLED, UNLABELLED]


def test_entity_codes_give_type_and_concept_of_each_token(builder: PassBuilder) -> None:
    text = "<gene|Gene|1> <mice|Gene|2> a <gene|Gene|1> <braf|Gene|->"
    encoded = pass_of(builder, document(text))
    kind = TYPE_INDEX["Gene"] + 1
    most, other = [kind, 1], [kind, 2]  # the concept with more mentions has the first slot
    assert encoded.entity_codes.tolist() == [
        *[most] * 3,
        *[other] * 3,
        [0, 0],
        *[most] * 3,
        *[[kind, 0]] * 3,
    ]
    many = pass_of(builder, long_document(NUM_SLOTS + 3))
    assert many.entity_codes.max() <= NUM_SLOTS
    assert (many.entity_codes[many.mentions[:, 0], 1] == 0).sum() == 4
    batch = builder.collate([many], slot=0)
    flat = np.pad(many.entity_codes, ((1, 1), (0, 0)))
    assert batch.entity_codes.tolist() == flat[batch.token_index.numpy()].tolist()


def test_windows_cover_everything_and_cut_no_mention() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        num_tokens, size = int(rng.integers(0, 200)), int(rng.integers(12, 60))
        spans = [
            (s, min(s + int(rng.integers(1, 10)), num_tokens)) for s in range(0, num_tokens, 9)
        ]
        windows = cut_windows(num_tokens, np.array(spans).reshape(-1, 2), size, overlap=5)
        assert windows[0][0] == 0 and windows[-1][1] == num_tokens
        for (start, end), (following, _) in zip(windows, windows[1:], strict=False):
            assert start < following <= end <= start + size
        edges = {edge for window in windows for edge in window}
        assert not any(start < edge < end for start, end in spans for edge in edges)
    assert cut_windows(10, np.array([(4, 9)]), size=6, overlap=2) == [(0, 4), (2, 4), (4, 10)]


def test_an_overlap_as_long_as_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="window_overlap"):
        cut_windows(100, np.zeros((0, 2)), size=10, overlap=10)


def test_windows_of_a_long_document_keep_all_tokens_and_pairs(builder: PassBuilder) -> None:
    encoded = pass_of(builder, long_document(12))
    assert len(encoded.windows) > 1
    assert len(encoded.pairs) == 12 * 11 // 2 + 12
    batch = builder.collate([encoded], slot=0)
    assert batch.max_seqlen <= 24
    assert sorted(set(batch.token_index.tolist())) == list(range(len(encoded.tokens) + 2))
    assert_tokens_match(batch, [encoded.tokens], builder)


def assert_tokens_match(batch: PairBatch, tokens: list[np.ndarray], builder: PassBuilder) -> None:
    """Each token of the strip is the document token that `token_index` says."""
    special = builder.tokenizer.special
    flat = np.concatenate([np.r_[special.cls, part, special.sep] for part in tokens])
    assert batch.input_ids.tolist() == flat[batch.token_index.numpy()].tolist()


def test_indices_of_a_batch_point_at_the_right_documents(builder: PassBuilder) -> None:
    docs = [document(DRUG, [TREATS]), long_document(9), document(DRUG)]
    encoded = [pass_of(builder, doc) for doc in docs]
    batch = builder.collate(encoded, slot=2)
    assert_tokens_match(batch, [one.tokens for one in encoded], builder)
    assert batch.indices.pass_of_concept[batch.pairs[:, 0]].tolist() == [0] + [1] * 45 + [2]
    assert batch.counts == {"relation": 47, "type": 1, "novelty": 47}
    assert batch.num_tokens == len(batch.input_ids) == int(batch.cu_seqlens[-1])
    concepts = [concept for one in encoded for concept in one.concepts]
    flat = np.concatenate([np.r_[-1, one.tokens, -1] for one in encoded])
    starts, ends = marker_ids(builder.tokenizer).T
    for start, end, concept in batch.mentions.tolist():
        kind = int(batch.concept_types[concept])
        assert (flat[start], flat[end - 1]) == (starts[kind], ends[kind])
    assert batch.num_mention_tokens == sum(end - start for start, end, _ in batch.mentions.tolist())
    for (first, second), pair in zip(batch.pairs.tolist(), batch.concept_pairs, strict=True):
        assert pair == (concepts[first], concepts[second])


def loader(builder: PassBuilder, world: World) -> DocumentLoader:
    docs = [document(f"<aspirin|Chemical|D{i}> treats <gene|Gene|{i}>") for i in range(7)]
    data = CorpusConfig(train="-", dev="-", passes_per_micro_batch=2, micro_batches=3)
    return DocumentLoader(docs, builder, data, 1, world, Tally())


def read(batches: list[PairBatch]) -> list[tuple[int, list[tuple[Concept, Concept]]]]:
    return [(batch.slot, list(batch.concept_pairs)) for batch in batches]


def test_micro_batches_do_not_depend_on_the_ranks(builder: PassBuilder) -> None:
    alone = loader(builder, World())
    pair = [loader(builder, World(rank, 2)) for rank in (0, 1)]
    for _ in range(5):
        parts = [rank.step() for rank in pair]
        assert [len(part) for part in parts] == [2, 2]
        assert parts[1][1].counts == {"relation": 0, "type": 0, "novelty": 0}
        assert parts[1][1].num_tokens == 0
        together = sorted(read([b for part in parts for b in part if b.slot >= 0]))
        assert together == read(alone.step())


def test_a_restored_loader_continues(builder: PassBuilder) -> None:
    whole, resumed = loader(builder, World()), loader(builder, World())
    for _ in range(3):
        whole.step()
    resumed.restore(whole.state())
    assert read(resumed.step()) == read(whole.step())


def test_an_epoch_reads_every_document_once(builder: PassBuilder) -> None:
    found = loader(builder, World())
    steps = [found.step() for _ in range(7)]
    seen = [first for step in steps for batch in step for first, _ in batch.concept_pairs]
    for epoch in range(6):
        assert len(set(seen[epoch * 7 : epoch * 7 + 7])) == 7


def labels_of(passes: Iterable[Pass]) -> list[tuple[Concept, Concept, int, int]]:
    """The pairs of some passes and what they are, in order."""
    return [
        (one.concepts[first], one.concepts[second], relation, novelty)
        for one in passes
        for (first, second), relation, novelty in zip(
            one.pairs.tolist(),
            one.relation_labels.tolist(),
            one.novelty_labels.tolist(),
            strict=True,
        )
    ]


def test_no_pair_of_a_made_up_corpus_is_lost(builder: PassBuilder) -> None:
    for doc in make_corpus(6, seed=3):
        tally = Tally()
        whole = labels_of(builder.passes(doc, tally))
        assert whole == labels_of(pairwise(builder).passes(doc, Tally()))
        assert [pair[:2] for pair in whole] == list(SCHEMA.candidates(doc))
        related = {pair[:2]: SCHEMA.labels[pair[2]] for pair in whole if pair[2]}
        assert related == {tuple(sorted(r.pair)): r.type for r in doc.relations}
        assert not tally.counts


@pytest.mark.parametrize("encoding", ["document", pytest.param("pairwise", marks=pytest.mark.slow)])
def test_no_pair_of_biored_is_lost(corpora: Path, encoding: str) -> None:
    tokenizer = load_tokenizer(corpora / "pubmedbert")
    config = PairConfig.model_validate({"encoding": encoding})
    builder = PassBuilder.build(tokenizer, SCHEMA, 512, config)
    tally, num_related, num_windows, num_pairs = Tally(), 0, 0, {}
    for name in ("Train.PubTator", "Dev.PubTator"):
        for doc in read_documents(corpora / "biored" / name, tally):
            found = list(builder.passes(doc, tally))
            for one in found:
                assert set(one.mentions[:, 2]) == set(range(len(one.concepts)))
                assert all(end - start <= 510 for start, end in one.windows)
            assert len(found) == 1 or encoding == "pairwise" or not doc.relations
            pairs = labels_of(found)
            assert [pair[:2] for pair in pairs] == list(SCHEMA.candidates(doc))
            num_pairs[name, doc.doc_id] = len(pairs)
            num_related += sum(relation != 0 for *_, relation, _ in pairs)
            num_windows += sum(len(one.windows) for one in found)
    assert sum(num_pairs.values()) == 21_755 + 6_334
    assert max(num_pairs.values()) == num_pairs["Train.PubTator", "30836660"] == 855
    assert num_related == 4_174 + 1_161
    assert num_windows > 500
    assert tally.counts == {
        "relation/with_itself": 4,
        "relation/not_a_candidate_pair": 1,
        "relation/illegal_type": 1,
    }


@pytest.mark.parametrize("encoding", ["document", "pairwise"])
def test_encoding_documents_together_gives_the_same_passes(
    builder: PassBuilder, encoding: str
) -> None:
    one = replace(builder, config=builder.config.model_copy(update={"encoding": encoding}))
    docs = [document(DRUG, [TREATS]), document(""), long_document(9), document(""), document(DRUG)]
    alone, together = Tally(), Tally()
    wanted = [(i, found) for i, doc in enumerate(docs) for found in one.passes(doc, alone)]
    found = list(one.passes_of(docs, together))
    assert [place for place, _ in found] == [place for place, _ in wanted]
    for (_, ours), (_, theirs) in zip(found, wanted, strict=True):
        for field in fields(ours):
            np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name))
    assert together == alone and together.counts["document/without_text"] == 2
    assert list(one.passes_of([], together)) == []
