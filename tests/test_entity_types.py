"""Every dialect of type names and identifiers comes out as one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embre.corpora import read_documents
from embre.document import Concept, Document, Mention
from embre.entity_types import (
    ENTITY_TYPES,
    entity_type_of,
    normalise,
    read_identifiers,
    spelled_identifier,
)
from embre.tally import Tally

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("source_type", "source_identifier", "expected"),
    [
        ("GeneOrGeneProduct", "3172,3651,6927", "Gene:3172 Gene:3651 Gene:6927"),
        ("gene", "6647;6648", "Gene:6647 Gene:6648"),
        ("GENE-Y", "83817(Tax:10116)", "Gene:83817"),
        ("Gene", "24513(tax:10116),24514 (Tax:10116)", "Gene:24513 Gene:24514"),
        ("Gene", "NCBIGene:673", "Gene:673"),
        ("Disease", "MESH:D003409", "Disease:D003409"),
        ("Disease", "mesh:D003409", "Disease:D003409"),
        ("Disease", "omim:604121", "Disease:OMIM:604121"),
        ("Disease", "OMIM_604121", "Disease:OMIM:604121"),
        ("Chemical", "MESH: Unknown", ""),
        ("Disease", "MESH:-,MESH:-1;MESH:None|OMIM:-", ""),
        ("Disease", "D014786|D006311", "Disease:D014786 Disease:D006311"),
        ("DiseaseClass", "D020279+D035583", "Disease:D020279 Disease:D035583"),
        ("Disease", "MESH:C000657245;-0.0017055673590066853", "Disease:C000657245"),
        ("Disease", "MESH:C000657245;6.5958E-5", "Disease:C000657245"),
        ("Chemical", "CHEBI:53251", "Chemical:CHEBI:53251"),
        ("Chemical", "MESH:D049231,MESH:C042511,-", "Chemical:D049231 Chemical:C042511"),
        ("Species", "6239;252961", "Species:6239 Species:252961"),
        ("Strain", "*10090", ""),
        ("cell_line", "CVCL:B288", "CellLine:CVCL_B288"),
        ("CellLine", " CVCL_1452", "CellLine:CVCL_1452"),
        ("CellLine", "9606", ""),
        ("SNP", "RS1800587", "Variant:rs1800587"),
        ("SequenceVariant", "c|SUB|G|CODON1763|A", "Variant:c|SUB|G|CODON1763|A"),
        ("SequenceVariant", "|SUB|G||A,3", "Variant:|SUB|G||A,3"),
        ("DNAMutation", "c.1799T>A", "Variant:c|SUB|T|1799|A"),
        ("DNAMutation", "c.790+1G>T;RS#:267607789", "Variant:rs267607789"),
        ("Mutation", "p.D538G;CorrespondingGene:2099", "Variant:p|SUB|D|538|G"),
        ("Variant", "HGVS:p.V600E;CorrespondingGene:673", "Variant:p|SUB|V|600|E"),
        ("Variant", "RS#:113488022;HGVS:p.V600E;CorrespondingGene:673", "Variant:rs113488022"),
        ("Variant", "tmVar:p|SUB|V|600|E;HGVS:p.V600E;RS#:113488022", "Variant:rs113488022"),
        ("Variant", "tmVar:p|SUB|S|161|A;HGVS:p.S161A", "Variant:p|SUB|S|161|A"),
        ("Variant", "DeltaF508/DeltaF508", "Variant:DeltaF508/DeltaF508"),
    ],
)
def test_an_identifier_reads_the_same_in_every_dialect(source_type, source_identifier, expected):
    concepts = normalise(source_type, source_identifier)[1]
    assert " ".join(map(str, concepts)) == expected


@pytest.mark.parametrize("missing", ["", " ", "-", "-1", "None", "null", "NaN", "NA", "unknown"])
def test_a_missing_identifier_is_no_concept(missing):
    for name in ENTITY_TYPES:
        assert normalise(name, missing) == (name, ())


def test_a_gene_alone_names_no_variant():
    assert normalise("OtherMutation", "Gene:10804") == ("Variant", ())
    assert normalise("Variant", "tmVar:CorrespondingGene:673;VariantGroup:0") == ("Variant", ())


def test_a_bar_separates_everywhere_but_in_biored():
    whole = Concept("Disease", "D015458|D016399")
    assert normalise("DiseaseOrPhenotypicFeature", "D015458|D016399")[1] == (whole,)
    assert len(normalise("Disease", "D015458|D016399")[1]) == 2


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("MESH:D015458|MESH:D016399", "D015458|D016399"),
        ("D015458 | MESH:D016399", "D015458|D016399"),
        ("D015458|-", "D015458"),
        ("-|-", ""),
        ("|", ""),
    ],
)
def test_what_a_bar_joins_in_biored_is_read_part_by_part(identifier, expected):
    concepts = normalise("DiseaseOrPhenotypicFeature", identifier)[1]
    assert [concept.identifier for concept in concepts] == [expected] * bool(expected)


@pytest.mark.parametrize("source_type", ["FamilyName", "DomainMotif", "Chromosome", "RefSeq", ""])
def test_a_type_that_names_no_one_thing_stays_unknown(source_type):
    assert normalise(source_type, "3172") == (source_type, ())


def test_no_spelling_belongs_to_two_types():
    spellings = [word for row in ENTITY_TYPES.values() for word in row.spellings]
    assert len(spellings) == len(set(spellings))
    assert all(entity_type_of(row.official) is row for row in ENTITY_TYPES.values())


def test_a_document_spells_a_concept_as_its_mentions_do():
    name, concepts = normalise("Gene", "854(Tax:9606);855")
    mention = Mention(0, 2, "p5", name, concepts, "Gene", "854(Tax:9606);855")
    doc = Document("1", "p5", (), (mention,))
    assert spelled_identifier(doc, Concept("Gene", "854")) == "854(Tax:9606)"
    assert spelled_identifier(doc, Concept("Gene", "855")) == "855"
    with pytest.raises(KeyError, match="document 1 has no mention of Disease:D1"):
        spelled_identifier(doc, Concept("Disease", "D1"))


def test_no_two_concepts_of_a_biored_document_become_one(corpora):
    for doc in read_documents(corpora / "biored" / "Train.PubTator", Tally()):
        spelt = {
            (mention.type, raw)
            for mention in doc.mentions
            for _, raw in read_identifiers(mention.source_type, mention.source_identifier)
        }
        assert len(spelt) == len(doc.mentions_by_concept())


def test_a_bar_separates_cell_lines() -> None:
    _, concepts = normalise("CellLine", "CVCL_0030|CVCL_0031")
    assert [concept.identifier for concept in concepts] == ["CVCL_0030", "CVCL_0031"]


ANOTHER_TYPE = """
from dataclasses import replace
from pathlib import Path
import numpy as np
from embre import entity_types as table

table.ENTITY_TYPES["Organ"] = replace(table.ENTITY_TYPES["Gene"], name="Organ", hue=7)
table.TYPE_INDEX["Organ"] = len(table.TYPE_INDEX)

from embre.evaluation.report import ENTITY_HUES, with_hues
from embre.sharding.dataset_card.plots import plot_concepts
from embre.shards.documents import COLOURS
from embre.tracking import curves  # noqa: F401

plot_concepts(Path("concepts.png"), {name: np.array([3, 1]) for name in table.TYPE_INDEX})
assert list(COLOURS) == list(table.TYPE_INDEX)
assert with_hues(["Organ"], ENTITY_HUES) == [{"name": "Organ", "hue": 7}]
"""


def test_another_type_is_one_row(tmp_path: Path) -> None:
    """Every table by type is made of the rows."""
    command = [sys.executable, "-c", ANOTHER_TYPE]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0


def test_types_are_told_apart_by_their_colours() -> None:
    for colour in ("hue", "colour", "terminal"):
        assert len({getattr(row, colour) for row in ENTITY_TYPES.values()}) == len(ENTITY_TYPES)
