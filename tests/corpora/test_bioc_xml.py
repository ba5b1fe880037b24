"""BioC-XML: its dialects, what breaks it, and that BioRED is the same in it as in PubTator."""

import pytest

from embre.corpora import read_documents
from embre.document import Concept, Document
from embre.tally import Tally
from tests.corpora.from_bytes import read_bytes

DOCTYPE = "<?xml version='1.0'?><!DOCTYPE collection SYSTEM 'BioC.dtd'>"


def annotation(start: int, text: str, infons: str, more: str = "", name: str = "T0") -> str:
    place = f'<location offset="{start}" length="{len(text)}"/>{more}'
    return f'<annotation id="{name}">{infons}{place}<text>{text}</text></annotation>'


def infon(key: str, value: str) -> str:
    return f'<infon key="{key}">{value}</infon>'


def document(annotations: str, after: str = "", doc_id: str = "7", front: str = "") -> str:
    passage = f"{front}<offset>0</offset><text>BRAF in melanoma</text>{annotations}"
    return f"<document><id>{doc_id}</id><passage>{passage}</passage>{after}</document>"


GENE = annotation(0, "BRAF", infon("type", "Gene") + infon("identifier", "673"))
DISEASE = annotation(8, "melanoma", infon("type", "Disease") + infon("MESH", "D008545"))


def read(body: str, tally: Tally | None = None, doctype: str = DOCTYPE) -> list[Document]:
    return read_bytes("bioc_xml", f"{doctype}<collection>{body}</collection>".encode(), tally)


@pytest.mark.parametrize(
    ("infons", "expected"),
    [
        (infon("type", "Gene") + infon("NCBI Gene", "673"), "Gene:673"),
        (infon("type", "CellLine") + infon("CVCL", "0030"), "CellLine:CVCL_0030"),
        (infon("type", "Disease") + infon("OMIM", "604121"), "Disease:OMIM:604121"),
        (infon("type", "DNAMutation") + infon("tmVar", "c.5A&gt;T"), "Variant:c|SUB|A|5|T"),
        (infon("type", "ProteinMutation") + infon("Identifier", "p.Y5S"), "Variant:p|SUB|Y|5|S"),
    ],
)
def test_older_exports_name_the_database_in_the_key(infons, expected):
    (doc,) = read(document(annotation(0, "BRAF", infons)))
    assert [str(concept) for concept in doc.mentions[0].concepts] == [expected]


@pytest.mark.parametrize(
    "ends",
    [
        infon("type", "CID") + infon("role1", "Gene|673") + infon("role2", "Disease|MESH:D008545"),
        infon("type", "CID") + infon("entity1", "673") + infon("entity2", "D008545"),
        infon("relation", "CID") + infon("Gene", "673") + infon("Disease", "D008545"),
    ],
)
def test_relations_name_their_ends_in_three_ways(ends):
    (doc,) = read(document(GENE + DISEASE, f"<relation>{ends}</relation>"))
    (relation,) = doc.relations
    assert relation.type == "CID"
    assert relation.pair == (Concept("Disease", "D008545"), Concept("Gene", "673"))


def node(*ids: str) -> str:
    return infon("type", "CID") + "".join(f'<node refid="{one}" role="x"/>' for one in ids)


NAMED = [
    annotation(0, "BRAF", infon("type", "Gene") + infon("NCBI Gene", "673"), name="T1"),
    annotation(8, "melanoma", infon("type", "Disease") + infon("MESH", "D008545"), name="T2"),
    annotation(0, "BRAF", infon("type", "Gene") + infon("identifier", "673,8"), name="T3"),
]


@pytest.mark.parametrize("inner", [True, False], ids=["of its passage", "of the document"])
def test_the_nodes_of_a_relation_name_annotations(inner):
    tally, relation = Tally(), f'<relation id="R1">{node("T1", "T2")}</relation>'
    annotations = "".join(NAMED[:2])
    text = document(annotations + relation) if inner else document(annotations, relation)
    (found,) = read(text, tally)[0].relations
    assert found.type == "CID" and not tally.counts
    assert found.pair == (Concept("Disease", "D008545"), Concept("Gene", "673"))
    assert found.source_ids == ("673", "D008545")


@pytest.mark.parametrize(
    "ids",
    [["T1"], ["T1", "T2", "T3"], ["T1", "R1"], ["T1", "673"], ["T3", "T2"]],
    ids=["one", "three", "a relation", "no annotation", "of two genes"],
)
def test_nodes_that_name_no_two_concepts_are_counted(ids):
    tally, relation = Tally(), f'<relation id="R1">{node(*ids)}</relation>'
    assert read(document("".join(NAMED), relation), tally)[0].relations == ()
    assert tally.counts == {"relation/unknown_concept": 1}


def test_a_role_is_cut_at_its_first_bar_and_needs_no_mention():
    role = infon("role2", "ProteinMutation|tmVar:p|SUB|G|177|D;HGVS:p.G177D")
    ends = infon("type", "Association") + infon("role1", "Gene|673") + role + infon("score", "0.9")
    (relation,) = read(document(GENE, f"<relation>{ends}</relation>"))[0].relations
    assert relation.tail == Concept("Variant", "p|SUB|G|177|D")
    assert relation.probability == 0.9 and relation.novel is None


def test_a_bare_pmc_number_never_passes_for_a_pmid():
    front = infon("article-id_pmid", "1560033") + infon("article-id_pmc", "2289422")
    (doc,) = read(document("", doc_id="2289422", front=front))
    assert (doc.doc_id, doc.pmid) == ("PMC2289422", "1560033")
    (doc,) = read(document("", doc_id="2289422", front=infon("article-id_pmc", "2289422")))
    assert (doc.doc_id, doc.pmid) == ("PMC2289422", None)
    (doc,) = read(document("", doc_id="1560033", front=front))
    assert (doc.doc_id, doc.pmid) == ("1560033", "1560033")


def test_an_annotation_in_two_places_is_counted():
    tally = Tally()
    (doc,) = read(
        document(GENE.replace("<text>", '<location offset="6" length="2"/><text>')), tally
    )
    assert doc.mentions == () and tally.counts == {"mention/discontinuous": 1}


def test_annotations_of_the_document_are_read():
    (doc,) = read(document("", GENE + DISEASE))
    assert [mention.text for mention in doc.mentions] == ["BRAF", "melanoma"]


def test_a_document_of_the_wrong_shape_is_lost_alone():
    tally = Tally()
    broken = document(GENE).replace("<offset>0</offset>", "<offset>zero</offset>")
    assert len(read(document(GENE) + broken + document(GENE), tally)) == 2
    assert tally.counts == {"document/unreadable": 1}
    assert "small:1#7: " in tally.examples["document/unreadable"][0]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("\n<document><id>8</wrong></document>", "document/unreadable"),
        ("\n<document><id>8</id><passage>", "document/cut_off"),
        ("\n<document>" + document(GENE, doc_id="9"), "document/unreadable"),
        ("\n<passage></passage></document>", "document/unreadable"),
        ("\n<document><id> </id></document>", "document/unreadable"),
        ("\n" + document("").replace("text>", "sentence>"), "document/unreadable"),
        ("\n" + document("<passage><offset>17</offset></passage>"), "document/unreadable"),
    ],
)
def test_a_broken_document_is_lost_alone(body, reason):
    tally = Tally()
    found = [doc.doc_id for doc in read(document(GENE) + body, tally)]
    assert found == ["7", "9"][: 1 + ("<id>9" in body)]
    assert tally.counts == {reason: 1}
    assert tally.examples[reason][0].startswith(("small:1", "small:2"))


def test_a_collection_without_end_is_counted():
    tally = Tally()
    content = f"{DOCTYPE}<collection>{document(GENE)}\n".encode()
    assert len(read_bytes("bioc_xml", content, tally)) == 1
    assert tally.counts == {"file/cut_off": 1}
    tally = Tally()
    assert read_bytes("bioc_xml", f"{DOCTYPE}<collection></collection>".encode(), tally) == []
    assert tally.counts == {"file/without_document": 1}


@pytest.mark.parametrize("entity", ["<!ENTITY x 'bomb'>", "<!ENTITY x SYSTEM 'file:///etc/hosts'>"])
def test_a_document_type_with_entities_is_refused(entity):
    tally = Tally()
    doctype = f"<!DOCTYPE collection [{entity}]>"
    assert read(document("").replace("BRAF", "&x;"), tally, doctype) == []
    assert tally.counts == {"file/declares_entities": 1}


@pytest.mark.parametrize("name", ["Train", "Dev"])
def test_biored_is_the_same_as_in_pubtator(corpora, name):
    from_xml = list(read_documents(corpora / "biored" / f"{name}.BioC.XML", Tally()))
    assert from_xml == list(read_documents(corpora / "biored" / f"{name}.PubTator", Tally()))


def test_bc5cdr_has_the_same_relations_as_in_pubtator(corpora):
    def read_relations(name: str) -> list[list[tuple[Concept, Concept]]]:
        documents = read_documents(corpora / "bc5cdr" / name, Tally())
        return [[relation.pair for relation in doc.relations] for doc in documents]

    from_text = read_relations("CDR_DevelopmentSet.PubTator.txt")
    assert from_text == read_relations("CDR_DevelopmentSet.BioC.xml")
    assert sum(map(len, from_text)) == 1_012
