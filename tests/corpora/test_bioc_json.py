"""BioC-JSON: the shapes it comes in, and that what is written reads back the same."""

import json
from dataclasses import replace

import pytest

from embre.corpora import read_documents
from embre.document import Concept, Document
from embre.tally import Tally
from tests.bioc_json_files import bioc_json
from tests.corpora.from_bytes import read_bytes

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
    return read_bytes("bioc_json", text.encode(), tally)


def write(documents: list[Document]) -> str:
    return bioc_json(documents).decode()


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


def test_annotations_of_the_document_are_read():
    first, second = DOCUMENT["passages"]
    (doc,) = read(DOCUMENT)
    (same,) = read(
        {
            "id": "7",
            "passages": [first | {"annotations": []}, second],
            "annotations": first["annotations"],
        }
    )
    assert same == doc


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [(673, ["673"]), (["673", 5609], ["673", "5609"]), ([], []), (None, [])],
)
def test_an_identifier_may_be_a_number_or_a_list(identifier, expected):
    infons = {"type": "Gene", "identifier": identifier}
    locations = [{"offset": 0, "length": 4}]
    annotation = {"infons": infons, "text": "BRAF", "locations": locations}
    (doc,) = read(
        {"id": "7", "passages": [DOCUMENT["passages"][0] | {"annotations": [annotation]}]}
    )
    assert [concept.identifier for concept in doc.mentions[0].concepts] == expected


def test_a_passage_within_a_passage_is_counted():
    tally, (first, second) = Tally(), DOCUMENT["passages"]
    assert read({"id": "7", "passages": [first | {"passages": [second]}]}, tally) == []
    assert tally.counts == {"document/unreadable": 1}


def test_a_broken_line_is_lost_alone():
    tally, line = Tally(), json.dumps(DOCUMENT)
    assert len(read(f"{line}\n{line[:65]}\n{line}\n", tally)) == 2
    (example,) = tally.examples["document/unreadable"]
    assert tally.counts.total() == 1 and example.startswith("small:2#7: JSON is malformed")


def test_a_document_of_the_wrong_shape_is_lost_alone():
    tally = Tally()
    broken = {"id": "8", "passages": [{"offset": None}]}
    assert len(read({"documents": [broken, DOCUMENT]}, tally)) == 1
    (example,) = tally.examples["document/unreadable"]
    assert example.startswith("small:1#8") and "$.passages[0].offset" in example


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('{"documents": [', "file/cut_off"),
        ("[" * 100_000, "file/cut_off"),
        ('{"documents": []}', "file/without_document"),
        ("{'single': 'quotes'}", "document/unreadable"),
        ('{"documents": [{"id": "7", "passages": [', "document/cut_off"),
        ('{"documents": [{"id": "7"}]}', "document/unreadable"),
    ],
)
def test_a_broken_file_is_counted(broken, reason):
    tally = Tally()
    assert read(broken, tally) == []
    assert set(tally.counts) - {"file/without_document"} == {reason} - {"file/without_document"}


def test_a_byte_order_mark_changes_nothing():
    assert read("\ufeff" + json.dumps({"documents": [DOCUMENT]})) == read(DOCUMENT)


@pytest.mark.parametrize("broken", ['"\\ud800"', '"\x01"', "NaN", "[" * 5000, '"a}', "}"])
def test_a_broken_document_of_a_collection_is_lost_alone(broken):
    tally, good = Tally(), json.dumps(DOCUMENT)
    bad = good.replace("[]", broken).replace('"BRAF in melanoma"', broken)
    found = read(f'{{"source": "x", "documents": [{good}, {bad}, {good}], "key": "y"}}', tally)
    assert len(found) == 2
    assert tally.counts == {"document/unreadable": 1}
    assert tally.examples["document/unreadable"][0].startswith("small:1#7: ")


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


def with_ids(relations: list, inner: bool) -> dict:
    """A gene `1`, a disease `2` and a mention of two genes `3`, related by the document or by a
    passage that mentions none of them."""
    said = [(1, "Gene", "673", 0, 4), (2, "Disease", "D008545", 8, 16), (3, "Gene", "673,8", 0, 4)]
    annotations = [
        {
            "id": name,
            "infons": {"type": kind, "identifier": identifier},
            "text": "BRAF in melanoma"[start:end],
            "locations": [{"offset": start, "length": end - start}],
        }
        for name, kind, identifier, start, end in said
    ]
    first, second = DOCUMENT["passages"]
    first = {**first, "annotations": annotations}
    if inner:
        return {**DOCUMENT, "passages": [first, {**second, "relations": relations}]}
    return {**DOCUMENT, "passages": [first, second], "relations": relations}


def related(*ids: str) -> list:
    nodes = [{"refid": one, "role": "x"} for one in ids]
    return [{"id": "R1", "infons": {"type": "CID"}, "nodes": nodes}]


@pytest.mark.parametrize("inner", [True, False], ids=["of a passage", "of the document"])
def test_the_nodes_of_a_relation_name_annotations(inner):
    tally = Tally()
    (found,) = read(with_ids(related("1", "2"), inner), tally)[0].relations
    assert found.type == "CID" and not tally.counts
    assert found.pair == (Concept("Disease", "D008545"), Concept("Gene", "673"))
    assert found.source_ids == ("673", "D008545")


@pytest.mark.parametrize(
    "ids",
    [["1"], ["1", "2", "3"], ["1", "R1"], ["1", "673"], ["3", "2"]],
    ids=["one", "three", "a relation", "no annotation", "of two genes"],
)
def test_nodes_that_name_no_two_concepts_are_counted(ids):
    tally = Tally()
    assert read(with_ids(related(*ids), inner=False), tally)[0].relations == ()
    assert tally.counts == {"relation/unknown_concept": 1}


@pytest.mark.parametrize("of_passage", [None, 7, ["x", {"infons": 3}], [{"nodes": ["1", "2"]}]])
@pytest.mark.parametrize("nodes", [None, "x", ["1", "2"]])
def test_relations_of_any_shape_cost_no_document(of_passage, nodes):
    given = with_ids([{"infons": {"type": "CID"}, "nodes": nodes}], inner=False)
    given["passages"][1] = {**given["passages"][1], "relations": of_passage}
    tally = Tally()
    (doc,) = read(given, tally)
    assert doc.relations == ()
    in_passage = len(of_passage) if isinstance(of_passage, list) else 0
    assert tally.counts == {"relation/unknown_concept": 1 + in_passage}


@pytest.mark.parametrize("of_document", [None, 7, ["x"], [{"infons": None}], [{"infons": 3}]])
def test_what_is_null_in_a_document_costs_no_document(of_document):
    annotations = [
        {"infons": {"type": "Gene", "identifier": "1"}, "text": "BRAF", "locations": locations}
        for locations in (None, [{"offset": 0, "length": None}], [{"offset": 0, "length": 4}])
    ]
    annotations.append({"infons": None, "text": "in", "locations": [{"offset": 5, "length": 2}]})
    first, nulls = DOCUMENT["passages"][0], {"infons": None, "annotations": None, "sentences": None}
    second = {"offset": 17, "text": "Yes.", "relations": None, **nulls}
    passages = [{**first, "infons": None, "annotations": annotations}, second]
    tally = Tally()
    given = {"id": "123", "pmcid": 123, "passages": passages, "relations": of_document}
    (doc,) = read(given, tally)
    assert (doc.doc_id, len(doc.passages), doc.relations) == ("PMC123", 2, ())
    assert [mention.text for mention in doc.mentions] == ["BRAF", "in"]
    costs = {"relation/unknown_concept": len(of_document)} if isinstance(of_document, list) else {}
    assert tally.counts == {"mention/no_location": 2, **costs}


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
