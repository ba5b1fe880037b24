"""The quirks of real files, one test each, with the smallest file that has it."""

import gzip
import json
from pathlib import Path

import pytest

from embre.corpora import read_documents
from embre.document import Concept, Document
from embre.tally import Tally


@pytest.fixture
def read(tmp_path):
    def read_file(content: str | bytes, tally: Tally | None = None) -> list[Document]:
        path = tmp_path / "file"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return list(read_documents(path, Tally() if tally is None else tally))

    return read_file


def pubtator(*lines: str, title: str = "BRAF in melanoma", abstract: str = "Yes.") -> str:
    return "\n".join([f"7|t|{title}", f"7|a|{abstract}", *lines, "", ""])


def bioc(passages: str, doc_id: str = "7") -> str:
    document = f"<document><id>{doc_id}</id>{passages}</document>"
    doctype = "<?xml version='1.0'?><!DOCTYPE collection SYSTEM 'BioC.dtd'>"
    return f"{doctype}<collection>{document}</collection>"


def concepts(doc: Document) -> list[str]:
    return [str(concept) for mention in doc.mentions for concept in mention.concepts]


def test_01_windows_line_ends(read):
    text = pubtator("7\t0\t4\tBRAF\tGene\t673") * 2
    assert read(text.replace("\n", "\r\n")) == read(text)


def test_02_blank_abstracts_even_annotated_ones(read):
    tally = Tally()
    lines = ["7\t0\t4\tBRAF\tGene\t673", "7\t17\t28\tNO ABSTRACT\tDisease\tD000001"]
    (doc,) = read(pubtator(*lines, abstract=""), tally)
    assert len(doc.mentions) == 1 and doc.passages[1].start == doc.passages[1].end
    assert tally.counts == {"mention/past_the_text": 1}


def test_03_one_id_with_several_texts(read):
    blocks = "7|t|First part\n7|a|\n7\t0\t5\tFirst\tGene\t1\n\n7|t|Second part\n7|a|\n\n"
    assert [(doc.doc_id, doc.text) for doc in read(blocks)] == [
        ("7", "First part "),
        ("7", "Second part "),
    ]


def test_04_bars_in_the_text(read):
    (doc,) = read(pubtator(title="a|t|b |a| c", abstract="7|t|not a title"))
    assert doc.text == "a|t|b |a| c 7|t|not a title"


def test_05_identifiers_with_separators_inside(read):
    lines = [
        "7\t0\t4\tBRAF\tSequenceVariant\tc|SUB|G|CODON1763|A",
        "7\t5\t7\tin\tSequenceVariant\t|SUB|G||A,3",
        "7\t8\t16\tmelanoma\tDisease\tD009369|D001943",
        "7\t17\t20\tYes\tGene\t6647;6648(Tax:10116)",
    ]
    assert concepts(read(pubtator(*lines))[0]) == [
        "Variant:c|SUB|G|CODON1763|A",
        "Variant:|SUB|G||A,3",
        "Disease:D009369",
        "Disease:D001943",
        "Gene:6647",
        "Gene:6648",
    ]


@pytest.mark.parametrize("missing", ["\t-", "\t-1", "\tNone", "\t", ""])
def test_06_missing_identifiers(read, missing):
    (doc,) = read(pubtator(f"7\t0\t4\tBRAF\tGene{missing}"))
    assert len(doc.mentions) == 1 and concepts(doc) == []


@pytest.mark.parametrize("infons", [{}, {"identifier": None, "valid": False}, {"identifier": "-"}])
def test_06_missing_identifiers_in_json(read, infons):
    places = [{"offset": 0, "length": 4}]
    annotation = {"infons": {"type": "Gene", **infons}, "text": "BRAF", "locations": places}
    passage = {"offset": 0, "text": "BRAF", "annotations": [annotation]}
    (doc,) = read(json.dumps({"id": "7", "passages": [passage]}))
    assert len(doc.mentions) == 1 and concepts(doc) == []


@pytest.mark.parametrize("score", ["-0.0017055673590066853", "6.5958E-5"])
def test_07_scores_glued_to_identifiers(read, score):
    line = f"7\t8\t16\tmelanoma\tDisease\tMESH:C000657245;{score}"
    assert concepts(read(pubtator(line))[0]) == ["Disease:C000657245"]


def test_08_blanks_and_free_forms_in_identifiers(read):
    lines = ["7\t0\t4\tBRAF\tCellLine\t CVCL_0030", "7\t5\t7\tin\tSequenceVariant\tp.G9S"]
    assert concepts(read(pubtator(*lines))[0]) == ["CellLine:CVCL_0030", "Variant:p|SUB|G|9|S"]


def test_09_one_number_for_a_gene_and_a_species(read):
    lines = ["7\t0\t4\tBRAF\tGene\t3906", "7\t8\t16\tmelanoma\tSpecies\t3906"]
    assert concepts(read(pubtator(*lines))[0]) == ["Gene:3906", "Species:3906"]


@pytest.mark.parametrize(
    ("kind", "dialects"),
    [
        ("Disease", ["D003409", "MESH:D003409"]),
        ("CellLine", ["CVCL_B288", "CVCL:B288"]),
        ("Variant", ["rs113488022", "tmVar:p|SUB|V|600|E;HGVS:p.V600E;RS#:113488022"]),
    ],
)
def test_10_dialects_of_identifiers(read, kind, dialects):
    found = [concepts(read(pubtator(f"7\t0\t4\tBRAF\t{kind}\t{word}"))[0]) for word in dialects]
    assert found[0] == found[1] and len(found[0]) == 1


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("GeneOrGeneProduct", "Gene"),
        ("ProteinMutation", "Variant"),
        ("OrganismTaxon", "Species"),
        ("gene", "Gene"),
        ("SNP", "Variant"),
        ("Chromosome", "Chromosome"),
        ("FamilyName", "FamilyName"),
    ],
)
def test_11_dialects_of_types(read, spelling, name):
    (mention,) = read(pubtator(f"7\t0\t4\tBRAF\t{spelling}\t1"))[0].mentions
    assert (mention.type, mention.source_type) == (name, spelling)


def test_12_overlapping_double_and_unsorted_mentions(read):
    tally = Tally()
    lines = ["7\t8\t16\tmelanoma\tDisease\tD1", "7\t0\t16\tBRAF in melanoma\tDisease\tD2"]
    (doc,) = read(pubtator(*lines, "7\t0\t4\tBRAF\tGene\t673", lines[0]), tally)
    assert [(mention.start, mention.end) for mention in doc.mentions] == [(0, 4), (0, 16), (8, 16)]
    assert tally.counts == {"mention/duplicate": 1}


def test_13_offsets_that_are_wrong_by_a_rule(read):
    tally = Tally()
    lines = ["7\t0\t4\tBRAF\tGene\t673", "7\t17\t28\tTrametinib.\tChemical\tD1"]
    far = "7\t900\t910\tfull  text\tDisease\tD2"  # of the full text, which is not there
    (doc,) = read(pubtator(*lines, far, title="BRAF in melanoma ", abstract="Trametinib."), tally)
    assert [doc.text[m.start : m.end] for m in doc.mentions] == ["BRAF", "Trametinib."]
    assert tally.counts == {"repaired/joined_otherwise": 1, "mention/past_the_text": 1}


def test_14_text_without_greek_letters(read):
    title = "a-ketoglutarate and b-GPA"
    lines = [
        "7\t0\t15\tα‑ketoglutarate\tChemical\tMESH:D007656",
        "7\t20\t25\tβ-GPA\tChemical\tMESH:C023438",
    ]
    (doc,) = read(pubtator(*lines, title=title))
    assert [doc.text[m.start : m.end] for m in doc.mentions] == ["a-ketoglutarate", "b-GPA"]
    assert [m.text for m in doc.mentions] == ["α‑ketoglutarate", "β-GPA"]


def test_15_html_entities_stay_in_the_text(read):
    (doc,) = read(pubtator("7\t7\t11\tBRAF\tGene\t673", title="A &gt; BRAF"))
    assert doc.text.startswith("A &gt; BRAF") and len(doc.mentions) == 1
    passage = "<passage><offset>0</offset><text>A &amp;gt; BRAF</text></passage>"
    assert read(bioc(passage))[0].text == "A &gt; BRAF"


def test_16_swapped_columns(read):
    tally = Tally()
    line = "7\t8\t16\tDiseaseOrPhenotypicFeature\tmelanoma\tD008545"
    (mention,) = read(pubtator(line), tally)[0].mentions
    assert (mention.text, mention.type) == ("melanoma", "Disease")
    assert tally.counts == {"repaired/swapped_columns": 1}


def test_17_annotations_in_several_places(read):
    tally = Tally()
    places = "<location offset='0' length='4'/><location offset='8' length='8'/>"
    annotation = (
        f"<annotation><infon key='type'>Disease</infon>{places}<text>BRAF</text></annotation>"
    )
    passage = f"<passage><offset>0</offset><text>BRAF in melanoma</text>{annotation}</passage>"
    assert read(bioc(passage), tally)[0].mentions == ()
    assert tally.counts == {"mention/discontinuous": 1}


def test_18_relations_of_identifiers_that_no_mention_has_alone(read):
    tally = Tally()
    lines = [
        "7\t0\t4\tBRAF\tVariant\ttmVar:p|SUB|V|600|E;HGVS:p.V600E;RS#:113488022",
        "7\t8\t16\tmelanoma\tDisease\tD009369|D001943",
        "7\tAssociation\tRS#:113488022;HGVS:p.V600E\tD001943",
        "7\tAssociation\t673\tD001943",
    ]
    (relation,) = read(pubtator(*lines), tally)[0].relations
    assert relation.pair == (Concept("Disease", "D001943"), Concept("Variant", "rs113488022"))
    assert tally.counts == {"relation/unknown_concept": 1}


@pytest.mark.parametrize(
    ("doc_id", "infons", "expected"),
    [
        ("2289422", {"pmid": "1560033", "pmc": "2289422"}, ("PMC2289422", "1560033")),
        ("PMC2289422", {}, ("PMC2289422", None)),
        ("1560033", {"pmc": "2289422"}, ("1560033", "1560033")),
    ],
)
def test_19_a_pmc_number_is_no_pmid(read, doc_id, infons, expected):
    front = "".join(f"<infon key='article-id_{k}'>{v}</infon>" for k, v in infons.items())
    (doc,) = read(bioc(f"<passage>{front}<offset>0</offset><text>A</text></passage>", doc_id))
    assert (doc.doc_id, doc.pmid) == expected


@pytest.mark.parametrize("damage", ["\x01", "\0" * 40, "<b", "&undefined;", "\ud800"])
def test_20_damage_costs_one_document(read, damage):
    tally = Tally()
    whole = (
        "<document><id>{}</id><passage><offset>0</offset><text>A{}A</text></passage></document>\n"
    )
    documents = whole.format(1, "") + whole.format(2, damage) + whole.format(3, "")
    text = f"<collection>\n{documents}</collection>"
    found = read(text.encode(errors="surrogatepass"), tally)
    assert [doc.doc_id for doc in found] == ["1", "3"]
    (example,) = tally.examples["document/unreadable"]
    assert tally.counts.total() == 1 and "file:3#2: " in example


def test_20_zeros_over_tags_cost_what_they_cover(read):
    tally = Tally()
    whole = "<document><id>{}</id><passage><offset>0</offset><text>A</text></passage></document>\n"
    text = "<collection>" + "".join(whole.format(n) for n in range(5)) + "</collection>"
    start, end = text.index("<text>", text.index("<id>1<")), text.index("<id>2<") - 3
    found = read(text[:start] + "\0" * (end - start) + text[end:], tally)
    assert [doc.doc_id for doc in found] == ["0", "3", "4"]
    assert set(tally.counts) == {"document/unreadable"}


def test_21_references_and_tables_keep_their_kind(read):
    passages = "".join(
        f"<passage><infon key='section_type'>{section}</infon><infon key='type'>{kind}</infon>"
        f"<offset>{offset}</offset><text>A</text></passage>"
        for offset, section, kind in [
            (0, "TITLE", "front"),
            (2, "REF", "ref"),
            (4, "TABLE", "table"),
        ]
    )
    kinds = [(passage.section, passage.kind) for passage in read(bioc(passages))[0].passages]
    assert kinds == [("TITLE", "title"), ("REF", "ref"), ("TABLE", "table")]


def test_22_comments_and_lines_of_three_columns(read):
    tally = Tally()
    text = "## NetMedEx\n\n" + pubtator("7\tbroken\tline", "## more", "7\t0\t4\tBRAF\tGene\t673")
    assert len(read(text, tally)[0].mentions) == 1
    assert tally.counts == {"line/unreadable": 1}
    assert Path(tally.examples["line/unreadable"][0]).name.startswith("file:5: ")
    assert read(gzip.compress(text.encode())) == read(text)
