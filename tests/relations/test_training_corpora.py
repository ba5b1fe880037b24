"""Corpora described in a config: checks, joint training, scores."""

import gzip
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from rich.console import Console

from embre.cli.evaluating import run_evaluation, run_report
from embre.config import (
    CorpusConfig,
    ExtraCorpusConfig,
    FinetuneConfig,
    PairConfig,
    SchemaConfig,
    check_config,
)
from embre.corpora import CORPORA, read_documents, write_pubtator
from embre.demo.corpus import make_corpus
from embre.document import Document, Relation
from embre.evaluation.scoring import score
from embre.finetune import SCORES, check
from embre.held_out import read_hold_out_list
from embre.launch.driver import run_job
from embre.prediction.tasks import PredictSettings
from embre.register import register_run
from embre.relations.corpus_checks import contamination_warning
from embre.relations.decode import predict
from embre.relations.document_loader import DocumentLoader
from embre.relations.model_folder import load_relation_model
from embre.relations.pair_labels import NOVEL, UNLABELLED
from embre.relations.pass_builder import PassBuilder
from embre.relations.scored_pairs import OTHERS, Decision
from embre.relations.training_corpora import (
    read_annotated,
    read_extra_corpora,
    schema_of,
    schemas_of,
)
from embre.tally import Tally
from embre.world import World
from tests.bioc_json_files import write_bioc_json
from tests.predicting import predict_inputs
from tests.tiny import document, tiny_tokenizer

MINE = {
    "name": "mine",
    "legal": {"ChemicalEntity Disease": ["CID", "treats"]},
    "label_map": {"induces": "CID", "other": None},
}
DRUG, ILLNESS = "Chemical:D001241", "Disease:D008545"
TEXT = "<aspirin|Chemical|D001241> treats <melanoma|Disease|D008545> in <braf|Gene|673>"


def other_labels(doc: Document) -> Document:
    """A document of the demo corpus as somebody else would annotate it, without novelty."""
    relations = []
    for relation in doc.relations:
        drugs = {c.type for c in relation.pair} == {"Chemical", "Disease"}
        positive = relation.type == "Positive_Correlation"
        label = ("induces" if positive else "treats") if drugs else "other"
        relations.append(Relation(relation.head, relation.tail, label))
    return replace(doc, relations=tuple(relations))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("corpora")
    docs = make_corpus(52, seed=5)
    mine = [other_labels(doc) for doc in docs]
    write_pubtator(found / "mine_train.PubTator", mine[:16])
    write_bioc_json(found / "mine_train.json", mine[:16])
    write_pubtator(found / "mine_dev.PubTator", mine[16:28])
    write_pubtator(found / "train.PubTator", docs[28:40])
    write_pubtator(found / "dev.PubTator", docs[40:])
    tiny_tokenizer(found / "backbone", [doc.text for doc in docs], size=500)
    return found


def config_of(folder: Path, name: str, **data: Any) -> FinetuneConfig:
    """A few steps of a tiny model on the corpus of the fixture, unless `data` says otherwise."""
    values = {
        "name": name,
        "storage": str(folder / "runs"),
        "encoder": {
            "path": str(folder / "backbone"),
            "new": {"layers": 1, "hidden": 32, "heads": 2, "feed_forward": 32},
        },
        "data": {
            "corpus": MINE,
            "train": str(folder / "mine_train.PubTator"),
            "dev": str(folder / "mine_dev.PubTator"),
            **data,
        },
        "pairs": {"detection_head": "relation" if "extra_corpora" in data else "novelty"},
        "optimizer": {"peak_lr": 1e-2, "warmup_steps": 2},
        "train": {"steps": 6, "save_every_steps": 6, "log_every_steps": 1},
    }
    return check_config(FinetuneConfig, values, "test")


def test_a_corpus_is_a_name_or_its_relations() -> None:
    assert schema_of(SchemaConfig(name="bc5cdr"), "data.corpus") == CORPORA["bc5cdr"]
    mine = schema_of(SchemaConfig(**MINE), "data.corpus")
    assert mine.relation_types == ("CID", "treats") and mine.novelty is False
    assert mine.legal == {("Chemical", "Disease"): frozenset({"CID", "treats"})}
    verbs = SchemaConfig(name="biored", label_map={"associate": "Association"}, novelty=False)
    renamed = schema_of(verbs, "data.corpus")
    assert renamed.legal == CORPORA["biored"].legal and not renamed.novelty
    assert renamed.knows("associate")


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("bioread", "data.corpus: unknown corpus 'bioread'; known: biored, bc5cdr"),
        ({"name": "biored", "legal": {"Gene Gene": ["x"]}}, "biored is a known corpus"),
        (
            MINE | {"label_map": {"induces": "CDI"}},
            "maps to 'CDI', which is no relation type; did you mean",
        ),
        (MINE | {"label_map": {}}, r"does not know: other .*induces .*\{other: CID\}, or"),
        (MINE | {"novelty": True}, "says Novel or No, and mine has novelty"),
        (
            MINE | {"legal": {"Gene Gene": ["CID", "treats"]}},
            "no relation that mine allows.*it has .*treats of Chemical and Disease",
        ),
    ],
)
def test_a_corpus_that_does_not_fit_its_files_is_refused(
    folder: Path, corpus: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(config_of(folder, "refused", corpus=corpus))


def test_training_documents_that_are_scored_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="data.train and data.dev share 12 documents"):
        check(config_of(folder, "leaky", train=str(folder / "mine_dev.PubTator")))
    extra = [{"corpus": MINE, "train": str(folder / "mine_dev.PubTator")}]
    with pytest.raises(
        ValueError, match=r"data.extra_corpora.0.train: every document is one that the run"
    ):
        check(config_of(folder, "leaky", extra_corpora=extra))
    extra = [{"corpus": "biored", "train": str(folder / "mine_train.PubTator")}]
    with pytest.raises(ValueError, match=r"data.extra_corpora.0.train: .* biored does not know"):
        check(config_of(folder, "leaky", extra_corpora=extra))


def assert_commands_refuse(flawed: Path, sound: Path, message: str) -> None:
    """Whichever of the two is taken for gold."""
    for gold, predicted in ((flawed, sound), (sound, flawed)):
        with pytest.raises(ValueError, match=message):
            list(run_evaluation(gold, predicted))
        with pytest.raises(ValueError, match=message):
            list(run_report(predicted, flawed.parent / "report.html", gold, None, False))


def test_scored_relations_of_concepts_without_mention_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    dev = folder / "mine_dev.PubTator"
    first = next(iter(read_documents(dev, Tally()))).doc_id
    lines = dev.read_text().splitlines()
    at = 1 + max(n for n, line in enumerate(lines) if line.startswith(first))
    flawed = tmp_path / "flawed.PubTator"
    flawed.write_text("\n".join([*lines[:at], f"{first}\ttreats\tD9\tD10", *lines[at:]]))
    message = f"flawed.PubTator: 1 relations name .*flawed.PubTator:{at + 1}: treats D9 D10"
    with pytest.raises(ValueError, match=f"data.dev: .*{message}.* correct their"):
        check(config_of(folder, "flawed", dev=str(flawed)))
    assert_commands_refuse(flawed, dev, message)
    list(run_report(flawed, tmp_path / "report.html", None, None, False))
    check(config_of(folder, "flawed", train=str(flawed), dev=str(folder / "mine_train.PubTator")))


def cut(path: Path, to: Path) -> Path:
    """A gzip of a file as a broken transfer leaves it; some of its documents can be read."""
    data = gzip.compress(path.read_bytes())
    to.write_bytes(data[: len(data) * 3 // 4])
    return to


def with_a_broken_line(path: Path, to: Path) -> Path:
    lines = path.read_text().splitlines()
    to.write_text("\n".join([*lines[:2], "no line of this format", *lines[2:], ""]))
    return to


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (cut, r"file/broken_archive \(1\).*; first file/broken_archive at .*dev.gz"),
        (with_a_broken_line, r"line/unreadable \(1\).* at .*dev.gz:3"),
    ],
)
def test_a_scored_file_is_read_completely_or_refused(
    folder: Path, tmp_path: Path, damaged: Callable[[Path, Path], Path], reason: str
) -> None:
    dev = folder / "mine_dev.PubTator"
    flawed = damaged(dev, tmp_path / "dev.gz")
    assert list(read_documents(flawed, Tally())), "else it is refused for holding nothing"
    message = f"dev.gz: .*{reason}.*Fetch a damaged file again, correct"
    with pytest.raises(ValueError, match=f"data.dev: .*{message}"):
        check(config_of(folder, "flawed", dev=str(flawed)))
    assert_commands_refuse(flawed, dev, message)


def test_an_encoder_that_may_have_seen_scored_documents_gives_a_warning(folder: Path) -> None:
    shipped = sorted(read_hold_out_list("biored").ids)
    dev = [document(TEXT, [], doc_id=doc_id) for doc_id in (*shipped[:2], "1")]
    ours = {"run": "ours", "shard_set": "5" * 64, "held_out": ["bc5cdr", "biored"]}
    said = r"^1 of 3 scored documents, as 1, are on no list .*\(bc5cdr, biored;"
    assert re.match(said, contamination_warning(ours, dev, "dev.PubTator"))
    assert re.match(said, contamination_warning({"encoder": ours}, dev, "dev.PubTator"))
    assert not contamination_warning(ours, dev[:2], "dev.PubTator")
    without = {"run": "ours", "shard_set": "5" * 64}
    assert re.match(r"^3 of 3 .*\(none;", contamination_warning(without, dev, "dev.PubTator"))
    assert not contamination_warning(
        without | {"held_out": ["dev.PubTator"]}, dev, "some/dev.PubTator"
    )
    assert not contamination_warning({"digest": "e" * 64}, dev, "dev.PubTator"), "it is not ours"


def test_training_files_may_have_broken_lines_but_must_be_complete(
    folder: Path, tmp_path: Path
) -> None:
    train = folder / "mine_train.PubTator"
    check(config_of(folder, "flawed", train=str(with_a_broken_line(train, tmp_path / "t.txt"))))
    lost = str(cut(train, tmp_path / "t.gz"))
    with pytest.raises(ValueError, match="data.train: .*t.gz: file/broken_archive"):
        check(config_of(folder, "flawed", train=lost))
    with pytest.raises(ValueError, match="data.extra_corpora.0.train: .*t.gz: file/broken_archive"):
        check(config_of(folder, "flawed", extra_corpora=[{"corpus": MINE, "train": lost}]))


def test_unknown_gold_labels_are_refused(folder: Path, tmp_path: Path) -> None:
    data = {"train": "x", "dev": "x", "corpus": MINE | {"label_map": {"other": None}}}
    config = {"name": "x", "encoder": {"path": "x"}, "train": {"steps": 1}, "data": data}
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    gold, known = folder / "mine_dev.PubTator", folder / "dev.PubTator"
    message = r"mine_dev.PubTator has labels that mine does not know: induces .*label_map"
    with pytest.raises(ValueError, match=message):
        list(run_evaluation(gold, known, config=tmp_path / "run.yaml"))
    with pytest.raises(ValueError, match=message):
        list(run_report(known, tmp_path / "p.html", gold, tmp_path / "run.yaml", False))


def test_held_out_documents_without_novelty_are_refused(folder: Path, tmp_path: Path) -> None:
    docs = list(read_documents(folder / "dev.PubTator", Tally()))
    bare = [
        replace(doc, relations=tuple(replace(r, novel=None) for r in doc.relations)) for doc in docs
    ]
    write_pubtator(tmp_path / "bare.PubTator", bare)
    data = {"corpus": "biored", "train": str(folder / "train.PubTator")}
    with pytest.raises(ValueError, match="data.dev: no relation of .*bare.PubTator says Novel"):
        check(config_of(folder, "bare", **data, dev=str(tmp_path / "bare.PubTator")))
    check(config_of(folder, "bare", **data, dev=str(folder / "dev.PubTator")))


def test_relations_with_several_identifiers_at_one_end_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    doc = document(TEXT, [(DRUG, ILLNESS, "treats", None)], doc_id="1")
    write_pubtator(tmp_path / "several.PubTator", [doc])
    text = (tmp_path / "several.PubTator").read_text().rstrip()
    (tmp_path / "several.PubTator").write_text(f"{text}\n1\ttreats\tD001241\t673,D008545\n\n")
    with pytest.raises(
        ValueError, match="or several at one end, such as .*673,D008545.*one relation"
    ):
        check(config_of(folder, "several", dev=str(tmp_path / "several.PubTator")))


def test_the_digests_name_every_file(folder: Path) -> None:
    extra = [{"corpus": "biored", "train": str(folder / "train.PubTator")}]
    config = config_of(folder, "digests", extra_corpora=extra)
    assert list(check(config)) == ["train", "dev", "extra_corpora.0"]
    moved = config_of(folder, "moved", extra_corpora=[extra[0] | {"train": "elsewhere"}])
    assert config.fingerprint() == moved.fingerprint(), "a path is no part of it"
    assert config.fingerprint() != config_of(folder, "alone").fingerprint()


def test_joint_batches_have_the_labels_and_pairs_of_each_corpus(folder: Path) -> None:
    data = CorpusConfig(
        train="-",
        dev="-",
        extra_corpora=[{"corpus": MINE, "train": "-"}],  # type: ignore[list-item]
        passes_per_micro_batch=2,
        micro_batches=1,
    )
    biored, mine = schemas_of(data)
    assert biored.relation_types == mine.relation_types
    assert biored.relation_types[:1] + biored.relation_types[-2:] == (
        "Association",
        "CID",
        "treats",
    )
    first = document(TEXT, [(DRUG, ILLNESS, "Positive_Correlation", True)], doc_id="1")
    second = mine.normalise(document(TEXT, [(DRUG, ILLNESS, "induces", True)], doc_id="2"), Tally())
    tokenizer = tiny_tokenizer(folder / "words")
    builder = PassBuilder.build(
        tokenizer, biored, 64, PairConfig(window_overlap=8, detection_head="relation")
    )
    loader = DocumentLoader(
        [first], builder, data, 1, World(), Tally(), extra_corpora=[([second], mine)]
    )
    (batch,) = loader.step()
    seen, member = {}, batch.indices.pass_of_concept[batch.pairs[:, 0]]
    for row, pair in enumerate(batch.concept_pairs):
        if {concept.type for concept in pair} == {"Chemical", "Disease"}:
            allowed = zip(biored.labels, batch.legal[row].tolist(), strict=True)
            num_pairs = int((member == member[row]).sum())
            seen[num_pairs] = (
                {name for name, legal in allowed if legal},
                biored.labels[int(batch.relation_labels[row])],
                int(batch.novelty_labels[row]),
            )
    any_of_biored = {"None", "Association", "Positive_Correlation", "Negative_Correlation"}
    assert seen == {  # by pairs of the document: with the gene BioRED has three, the other one
        3: (any_of_biored, "Positive_Correlation", NOVEL),
        1: ({"None", "CID", "treats"}, "CID", UNLABELLED),
    }


@pytest.fixture(scope="module")
def flushed() -> list[str]:
    """The files that the run flushed, by name, in order."""
    return []


@pytest.fixture(scope="module")
def run(folder: Path, flushed: list[str]) -> Path:
    def fsync(handle: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        return run_job("finetune", config_of(folder, "mine"), Console(file=StringIO()))


def test_results_are_flushed_before_the_scores_file(run: Path, flushed: list[str]) -> None:
    names = [name.split(".partial")[0] for name in flushed]
    last = max(at for at, name in enumerate(names) if name.startswith(SCORES))
    for folder in (run / "relation_model", run / "evaluation"):
        assert {path.name for path in folder.iterdir()} <= {*names[:last]}
    whole = {name.rpartition(".")[0] for name in names[:last]}
    assert "report.html" in names[:last] and "dev_predicted.PubTator" in whole


def test_a_described_corpus_is_trained_scored_and_predicted(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    values = json.loads((run / SCORES).read_text())
    assert all(lost["relation/label_left_out"] > 0 for lost in values["dropped"].values())
    assert list(values["dropped"]) == ["train", "dev"]
    assert list(values["dev"]) == list(values["floor"]) == ["pair", "pair_type"]
    gold = read_annotated(
        str(folder / "mine_dev.PubTator"), schema_of(SchemaConfig(**MINE), ""), Tally()
    )
    held = list(read_documents(run / "dev_predicted.PubTator", Tally()))
    assert score(gold, held)["all"].tp == values["dev"]["pair_type"]["tp"]
    lines = run_evaluation(
        folder / "mine_dev.PubTator",
        run / "dev_predicted.PubTator",
        out=tmp_path / "evaluation",
        config=run / "config.yaml",
    )
    printed = [line for line in lines if isinstance(line, str)]
    assert "gold and pred without novelty: ignore the two metrics with novelty" in printed
    written = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    for metric, counted in values["dev"].items():
        assert {k: written["scores"][metric][k] for k in ("tp", "fp", "fn")} == {
            k: counted[k] for k in ("tp", "fp", "fn")
        }
    loaded = load_relation_model(run / "relation_model", torch.device("cpu"))
    assert loaded.builder.schema.name == "mine"
    given, every = [str(folder / "mine_dev.PubTator")], PredictSettings(threshold=0.0)
    found = predict_inputs(run / "relation_model", given, tmp_path / "out", "test", every)
    predicted = list(read_documents(found.files[0], Tally()))
    relations = [relation for doc in predicted for relation in doc.relations]
    assert len(relations) == found.relations > 0
    assert {relation.novel for relation in relations} == {None}
    assert {relation.type for relation in relations} <= {"CID", "treats"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not stated" in page and "</html>" in page


def test_a_registered_model_without_novelty_says_so(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    settings = tmp_path / "run" / "relation_model" / "config.json"
    values = json.loads(settings.read_text())
    values["embre"]["decision"]["thresholds"] = {OTHERS: 0.0}  # so that it predicts at all
    settings.write_text(json.dumps(values))
    found = register_run(tmp_path / "run", "embre-mine", "champion")
    mlflow.set_tracking_uri(found.uri)
    model = mlflow.pyfunc.load_model("models:/embre-mine@champion")
    rows = model.predict([(folder / "mine_dev.PubTator").read_text()])
    assert len(rows) > 0 and all(row.novel is None for row in rows)


def test_a_joint_run_is_scored_on_its_first_corpus(folder: Path) -> None:
    config = config_of(
        folder,
        "joint",
        corpus="biored",
        train=str(folder / "train.PubTator"),
        dev=str(folder / "dev.PubTator"),
        extra_corpora=[{"corpus": MINE, "train": str(folder / "mine_train.json")}],
    )
    found = run_job("finetune", config, Console(file=StringIO()))
    loaded = load_relation_model(found / "relation_model", torch.device("cpu"))
    schema = loaded.builder.schema
    assert schema.name == "biored" and schema.labels[-2:] == ("CID", "treats")
    every = replace(loaded, decision=Decision(thresholds={OTHERS: 0.0}))
    predicted = list(predict(every, read_documents(folder / "dev.PubTator", Tally())))
    relations = [relation for doc in predicted for relation in doc.relations]
    assert relations and not {"CID", "treats"} & {relation.type for relation in relations}
    assert {relation.novel for relation in relations} <= {True, False}


def test_every_relation_of_bc5cdr_is_a_candidate(corpora: Path) -> None:
    schema, found = CORPORA["bc5cdr"], {}
    names = ("CDR_TrainingSet.PubTator.txt", "CDR_DevelopmentSet.PubTator.txt")
    for name in (*names, "CDR_DevelopmentSet.BioC.xml"):
        tally = Tally()
        docs = read_annotated(str(corpora / "bc5cdr" / name), schema, tally)
        assert set(tally.counts) <= {"mention/discontinuous"}
        relations = {(doc.doc_id, r.pair) for doc in docs for r in doc.relations}
        pairs = {(doc.doc_id, pair) for doc in docs for pair in schema.candidates(doc)}
        assert relations <= pairs
        found[name] = (len(docs), relations, pairs)
    counts = {n: (docs, len(gold), len(pairs)) for n, (docs, gold, pairs) in found.items()}
    assert counts[names[0]] == (500, 1038, 5432)
    assert counts[names[1]] == (500, 1012, 5261)
    assert found["CDR_DevelopmentSet.BioC.xml"] == found[names[1]]


def test_bioc_and_pubtator_of_biored_are_equal(corpora: Path) -> None:
    schema, found = CORPORA["biored"], []
    for name in ("Dev.PubTator", "Dev.BioC.XML", "Dev.BioC.JSON"):
        docs = read_annotated(str(corpora / "biored" / name), schema, Tally())
        relations = Counter((d.doc_id, r.pair, r.type, r.novel) for d in docs for r in d.relations)
        found.append((relations, {(d.doc_id, pair) for d in docs for pair in schema.candidates(d)}))
    assert found[0] == found[1] == found[2]
    assert len(found[0][1]) == 6334


def test_biored_dev_and_test_are_held_out_of_joint_training(corpora: Path) -> None:
    cdr = str(corpora / "bc5cdr" / "CDR_TrainingSet.PubTator.txt")
    data = CorpusConfig(
        train="-",
        dev="-",
        extra_corpora=[ExtraCorpusConfig.model_validate({"corpus": "bc5cdr", "train": cdr})],
    )
    biored, *others = schemas_of(data)
    dev = read_annotated(str(corpora / "biored" / "Dev.PubTator"), biored, Tally())
    tally = Tally()
    ((docs, schema),) = read_extra_corpora(data, others, [], dev, tally)
    assert schema.legal == CORPORA["bc5cdr"].legal
    assert tally.counts == {"document/held_out": 20} and len(docs) == 480
    assert not {doc.doc_id for doc in docs} & {doc.doc_id for doc in dev}


def test_extra_files_of_the_scored_corpus_are_deduplicated(tmp_path: Path) -> None:
    docs = make_corpus(12, seed=2)
    for name, some in (("train", docs[:6]), ("more", docs[4:10]), ("dev", docs[9:])):
        write_pubtator(tmp_path / f"{name}.PubTator", some)
    path = str(tmp_path / "more.PubTator")
    silver = {"corpus": {"name": "biored", "novelty": False}, "train": path}
    other = {"corpus": {"name": "mine", "legal": {"Gene Disease": ["x"]}}, "train": path}
    for one, kept in ((silver, docs[6:9]), (other, docs[4:9])):
        data = CorpusConfig(
            train="-", dev="-", extra_corpora=[ExtraCorpusConfig.model_validate(one)]
        )
        tally = Tally()
        ((found, _),) = read_extra_corpora(data, schemas_of(data)[1:], docs[:6], docs[9:], tally)
        assert [doc.doc_id for doc in found] == [doc.doc_id for doc in kept]
        twice = 2 if one is silver else 0
        assert (tally.counts["document/held_out"], tally.counts["document/twice"]) == (1, twice)
