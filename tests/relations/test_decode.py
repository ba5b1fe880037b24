"""Prediction, and the folder of a relation model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from embre.document import Document
from embre.relation_schema import RelationSchema
from embre.relations import decode
from embre.relations.decode import predict
from embre.relations.markers import MARKERS
from embre.relations.model_folder import (
    LoadedModel,
    in_half_precision,
    load_relation_model,
    save_relation_model,
)
from embre.relations.scored_pairs import OTHERS, Decision
from embre.tally import Tally
from tests.tiny import document, tiny_relation_model

CPU = torch.device("cpu")
DOCS = [
    document("<braf|Gene|1> causes <melanoma|Disease|D1>", doc_id="1"),
    document("a study of the <mice|Species|10090>", doc_id="2"),
    document("", doc_id="3"),
    document(
        " and ".join(f"<gene {i}|Gene|{i}>" for i in range(40)),
        [("Gene:1", "Gene:2", "Association", True)],
        doc_id="4",
    ),
]


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    """So low a threshold that every pair is related."""
    return replace(tiny_relation_model(folder, 64, 16), decision=at(1e-6))


def at(threshold: float) -> Decision:
    return Decision(thresholds={OTHERS: threshold})


def save(loaded: LoadedModel, folder: Path) -> None:
    save_relation_model(folder, loaded)


def assert_same(found: list[Document], expected: list[Document]) -> None:
    """The same documents, and the same relations to five digits of their probability."""
    for one, other in zip(found, expected, strict=True):
        assert replace(one, relations=()) == replace(other, relations=())
        for mine, theirs in zip(one.relations, other.relations, strict=True):
            assert mine.probability == pytest.approx(theirs.probability, abs=1e-5)
            assert replace(mine, probability=None) == replace(theirs, probability=None)


def test_every_document_comes_back_in_order(loaded: LoadedModel) -> None:
    found = list(predict(loaded, DOCS))
    assert [replace(doc, relations=()) for doc in found] == [
        replace(doc, relations=()) for doc in DOCS
    ]
    assert [len(doc.relations) for doc in found] == [1, 0, 0, 40 * 39 // 2]
    relation = found[0].relations[0]
    assert relation.type in loaded.builder.schema.legal_types(relation.head, relation.tail)
    assert relation.novel in (True, False)
    assert relation.probability is not None and 0 < relation.probability < 1
    assert relation.source_ids is None


def test_results_do_not_depend_on_batching(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = list(predict(loaded, DOCS))
    monkeypatch.setattr(decode, "STRIP_TOKENS", 1)
    assert_same(list(predict(loaded, DOCS)), together)
    monkeypatch.setattr(decode, "DOCUMENTS_AT_ONCE", 1)
    assert_same(list(predict(loaded, DOCS)), together)


def test_a_block_is_decided_after_the_next_one_is_queued(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = decode.start_scoring, []

    def start_scoring(loaded: LoadedModel, docs: list[Document], tally: Tally):
        result, name = real(loaded, docs, tally), docs[0].doc_id
        seen.append(f"start {name}")
        return lambda: (seen.append(f"result {name}"), result())[1]

    monkeypatch.setattr(decode, "start_scoring", start_scoring)
    monkeypatch.setattr(decode, "DOCUMENTS_AT_ONCE", 1)
    assert len(list(predict(loaded, DOCS[:3]))) == 3
    assert seen == ["start 1", "start 2", "result 1", "start 3", "result 2", "result 3"]


def test_strips_are_filled_by_their_longest_pass(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = [one for doc in DOCS for one in loaded.builder.passes(doc, Tally())]
    short, long = passes
    monkeypatch.setattr(decode, "STRIP_TOKENS", 2 * len(long.tokens))
    assert [len(some) for some in decode.strips([short, short, long, long, short])] == [2, 2, 1]
    monkeypatch.setattr(decode, "STRIP_TOKENS", 1)
    assert [len(some) for some in decode.strips([long, short])] == [1, 1]


def test_the_threshold_decides(loaded: LoadedModel) -> None:
    probability = list(predict(loaded, DOCS))[0].relations[0].probability
    assert probability is not None
    for threshold, expected in ((probability - 1e-4, 1), (probability + 1e-4, 0)):
        found = next(predict(replace(loaded, decision=at(threshold)), DOCS[:1]))
        assert len(found.relations) == expected


def test_relations_that_a_prediction_replaces_are_counted(loaded: LoadedModel) -> None:
    tally = Tally()
    doc = document("<braf|Gene|1> in <mice|Gene|2>", [("Gene:1", "Gene:1", "Bind", True)])
    list(predict(loaded, [doc], tally=tally))
    assert tally.counts == {"relation/replaced": 1}


def test_a_saved_model_predicts_the_same(loaded: LoadedModel, tmp_path: Path) -> None:
    save(loaded, tmp_path)
    again = load_relation_model(tmp_path, CPU)
    assert again.decision == loaded.decision
    assert again.builder.max_document_tokens == 64
    assert again.builder.config == loaded.builder.config
    assert_same(list(predict(again, DOCS)), list(predict(loaded, DOCS)))


def test_the_folder_is_a_plain_bert_too(loaded: LoadedModel, tmp_path: Path) -> None:
    save(loaded, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path), local_files_only=True)
    assert tokenizer.convert_tokens_to_ids(list(MARKERS)) == list(
        range(loaded.builder.tokenizer.vocabulary - 12, loaded.builder.tokenizer.vocabulary)
    )
    plain, info = AutoModel.from_pretrained(
        str(tmp_path), local_files_only=True, output_loading_info=True, add_pooling_layer=False
    )
    assert not info["missing_keys"]
    state = plain.state_dict()
    for name, value in loaded.model.bert.state_dict().items():
        assert torch.equal(state[name], value), name


def test_other_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load_relation_model(folder, CPU)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="embre finetune"):
        load_relation_model(tmp_path, CPU)


@pytest.mark.parametrize("has", [True, False])
def test_prediction_uses_bf16_on_gpus_that_support_it(
    has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    assert in_half_precision(torch.device("cuda")) is has
    assert not in_half_precision(CPU)


def test_another_format_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    save(loaded, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["embre"]["format"] = 1
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="written in format 1"):
        load_relation_model(tmp_path, CPU)


def test_a_model_of_an_unregistered_corpus_loads(loaded: LoadedModel, tmp_path: Path) -> None:
    types = ("likes", *loaded.builder.schema.relation_types[1:])
    legal = {("Disease", "Gene"): frozenset({"likes"})}
    schema = RelationSchema("mine", types, legal, novelty=False)
    mine = replace(loaded, builder=replace(loaded.builder, schema=schema))
    save(mine, tmp_path)
    again = load_relation_model(tmp_path, CPU)
    assert again.builder.schema == schema
    found = list(predict(again, DOCS))
    assert_same(found, list(predict(mine, DOCS)))
    (relation,) = found[0].relations
    assert (relation.type, relation.novel) == ("likes", None)
