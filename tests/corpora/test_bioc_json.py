"""BioC-JSON: the shapes it comes in, and that what is written reads back the same."""

import io
import json
from dataclasses import replace

import pytest

from embre.corpora import bioc_json, read_documents
from embre.document import Concept, Document
from embre.tally import Tally

DOCUMENT = {
    "id": "7",
    "passages": [
        {
            "infons": {},
            "offset": 0,
            "text": "BRAF in melanoma",
            "annotations": [
                {
                    "infons": {"identifier": "673", "type": "Gene", "valid": True},
                    "text": "BRAF",
                    "locations": [{"offset": 0, "length": 4}],
                },
                {
                    "infons": {"type": "Disease", "valid": False, "normalized_id": None},
                    "text": "melanoma",
                    "locations": [{"offset": 8, "length": 8}],
                },
            ],
        },
        {"infons": {}, "offset": 17, "text": "Yes."},
    ],
}


def read(data: object, tally: Tally | None = None) -> list[Document]:
    text = data if isinstance(data, str) else json.dumps(data)
    tally = Tally() if tally is None else tally
    return list(bioc_json.read(io.BytesIO(text.encode()), "small.json", tally))


def write(documents: list[Document]) -> str:
    stream = io.BytesIO()
    bioc_json.write(stream, documents)
    return stream.getvalue().decode()


@pytest.mark.parametrize(
    "wrapped",
    [
        DOCUMENT,
        {"documents": [DOCUMENT]},
        {"PubTator3": [DOCUMENT]},
        [[{"PUBLIC DOMAIN NOTICE": ""}], [DOCUMENT]],
        json.dumps(DOCUMENT, indent=1),
        json.dumps(DOCUMENT) + "\n\n",
    ],
)
def test_documents_are_found_in_whatever_wraps_them(wrapped):
    (doc,) = read(wrapped)
    assert doc.text == "BRAF in melanoma Yes."
    assert [passage.kind for passage in doc.passages] == ["title", "abstract"]
    assert [mention.concepts for mention in doc.mentions] == [(Concept("Gene", "673"),), ()]


def test_a_broken_line_is_lost_alone():
    tally, line = Tally(), json.dumps(DOCUMENT)
    assert len(read(f"{line}\n{line[:50]}\n{line}\n", tally)) == 2
    assert tally.examples == {"line/unreadable": ["small.json:2: Input data was truncated"]}


def test_a_document_of_the_wrong_shape_is_lost_alone():
    tally = Tally()
    broken = {"id": "8", "passages": [{"offset": None}]}
    assert len(read({"documents": [broken, DOCUMENT]}, tally)) == 1
    (example,) = tally.examples["document/unreadable"]
    assert example.startswith("small.json:1#8") and "$.passages[0].offset" in example


@pytest.mark.parametrize("broken", ['{"documents": [', "[" * 100_000, "{'single': 'quotes'}"])
def test_a_broken_file_is_counted(broken):
    tally = Tally()
    assert read(broken, tally) == []
    assert tally.counts == {"file/broken_json": 1}


def test_pubtator3_relations_carry_their_types_and_scores():
    variant = "RS#:113488022;HGVS:p.V600E;CorrespondingGene:673"
    infons = {
        "score": "0.9521",
        "role1": {"identifier": "MESH:C560077", "type": "Chemical"},
        "role2": {"identifier": variant, "type": "Variant"},
        "type": "Negative_Correlation",
    }
    (doc,) = read({**DOCUMENT, "relations": [{"id": "R1", "infons": infons, "nodes": []}]})
    (relation,) = doc.relations
    assert relation.head == Concept("Chemical", "C560077")
    assert relation.tail == Concept("Variant", "rs113488022")
    assert relation.probability == 0.9521
    assert relation.source_ids == ("MESH:C560077", variant)


def test_a_full_text_is_called_by_its_pmc_number():
    (doc,) = read({**DOCUMENT, "id": "3446384", "pmid": 22429397, "pmcid": "PMC3446384"})
    assert (doc.doc_id, doc.pmid) == ("PMC3446384", "22429397")


def test_biored_is_the_same_as_in_pubtator(corpora):
    from_json = list(read_documents(corpora / "biored" / "Dev.BioC.JSON", Tally()))
    assert from_json == list(read_documents(corpora / "biored" / "Dev.PubTator", Tally()))


@pytest.mark.parametrize(
    "name",
    [
        "biored/Dev.PubTator",
        "pubtator3/export_22663011.json",
        "pubtator3/demo_pubtator.biocjson",
        "pubtator3/22429397_full_240916.json",
        "pubtator_bulk/greenelab_batch_0.xml",
        "pubtator_gold/tmVar3_Train.PubTator",
    ],
)
def test_written_and_read_again_documents_are_the_same(corpora, name):
    documents = list(read_documents(corpora / name, Tally()))
    assert read(write(documents)) == documents


def test_a_prediction_keeps_its_novelty_and_score(corpora):
    documents = list(read_documents(corpora / "biored" / "Dev.PubTator", Tally()))[:3]
    predicted = [
        replace(doc, relations=tuple(replace(r, probability=0.25) for r in doc.relations))
        for doc in documents
    ]
    assert read(write(predicted)) == predicted
