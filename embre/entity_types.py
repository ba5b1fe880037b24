"""The table of entity types: canonical names, spellings in dumps, identifier dialects."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from embre.document import Concept, Document
from embre.wording import nearest

NOT_NORMALISED = {"", "-", "-1", "none", "null", "nan", "na", "unknown"}


@dataclass(frozen=True, slots=True)
class EntityType:
    """One row: the names of a type, how its identifiers are parsed, and its colours.

    `official` is BioRED's name, which the official scorer compares; `spellings` are normalised by
    `_plain`. `separators` are the characters between the identifiers of a list, '' if the type has
    no lists; `canonical` normalises one identifier, to '' if it names nothing.

    `hue` is that of the report, in degrees of OKLCH; `colour` the same, dark enough for a line on
    white; `terminal` the nearest ANSI colour.
    """

    name: str
    official: str
    spellings: frozenset[str]
    separators: str
    canonical: Callable[[str], str]
    hue: int
    colour: str
    terminal: str


@lru_cache(maxsize=1 << 18)  # few concepts make up most mentions of a dump
def normalise(source_type: str, source_identifier: str) -> tuple[str, tuple[Concept, ...]]:
    """The canonical type and concepts of a file's type and identifier; unknown types are kept.

    >>> normalise("DiseaseOrPhenotypicFeature", "MESH:D001943,D010051")[1]
    (Concept(type='Disease', identifier='D001943'), Concept(type='Disease', identifier='D010051'))
    >>> normalise("DomainMotif", "3514")
    ('DomainMotif', ())
    """
    row = entity_type_of(source_type)
    if row is None:
        return source_type, ()
    parts = read_identifiers(source_type, source_identifier)
    return row.name, tuple(dict.fromkeys(Concept(row.name, name) for name, _ in parts))


@lru_cache(maxsize=1 << 12)  # repeated only for the relations of one document
def read_identifiers(source_type: str, source_identifier: str) -> tuple[tuple[str, str], ...]:
    """Each identifier in a file's list: canonical, and as spelled in the list.

    >>> read_identifiers("Gene", "854(Tax:9606);-")
    (('854', '854(Tax:9606)'),)
    """
    return tuple(split_identifiers(source_type, source_identifier))


def split_identifiers(source_type: str, source_identifier: str) -> list[tuple[str, str]]:
    """`read_identifiers` without the cache, for callers that do not repeat arguments."""
    row, separator = entity_type_of(source_type), _separator_of(source_type)
    if row is None:
        return []
    raw_parts = separator.split(source_identifier) if separator else [source_identifier]
    stripped = [raw.strip() for raw in raw_parts]
    parts = [(_canonical(row, raw), raw) for raw in stripped if raw]
    return [(name, raw) for name, raw in parts if name]


def _canonical(row: EntityType, raw: str) -> str:
    """One identifier of a list in canonical form, '' if it names nothing.

    What bars still join is one concept (see `_separator_of`): of `MESH:D1|-` that is `D1`.
    """
    joined = raw.split("|") if "|" in row.separators else [raw]
    names = [row.canonical(part.strip()) for part in joined if part.strip()]
    return "|".join(filter(_names_something, names))


def _names_something(identifier: str) -> bool:
    """Whether an identifier names something: `MESH:-1` and `MESH: Unknown` do not."""
    return identifier.rpartition(":")[2].strip().lower() not in NOT_NORMALISED


@lru_cache(maxsize=4096)
def _separator_of(source_type: str) -> re.Pattern[str] | None:
    """The pattern that separates the identifiers in a list of a type; None without lists."""
    row = entity_type_of(source_type)
    separators = row.separators if row else ""
    if row and row.official != row.name and _plain(source_type) == _plain(row.official):
        # In BioRED `D015458|D016399` is one concept, and relations name it whole.
        separators = separators.replace("|", "")
    return re.compile(f"[{separators}]") if separators else None


def spelled_identifier(doc: Document, concept: Concept) -> str:
    """A concept's identifier as the mentions of the document spell it.

    `Disease:D003409` is `MESH:D003409` in a PubTator 3 document and `D003409` in BioRED. Raises
    KeyError if no mention has the concept.
    """
    for mention in doc.mentions:
        if concept in mention.concepts:
            for name, raw in read_identifiers(mention.source_type, mention.source_identifier):
                if name == concept.identifier:
                    return raw
    raise KeyError(f"document {doc.doc_id} has no mention of {concept}")


@lru_cache(maxsize=4096)
def entity_type_of(source_type: str) -> EntityType | None:
    """The row of a spelling, ignoring case, `_`, `-` and spaces; None if unknown."""
    return ROW_BY_SPELLING.get(_plain(source_type))


def unknown_type(word: str) -> str:
    """Error message for a word that is not the canonical name of a type.

    >>> unknown_type("SequenceVariant")
    'SequenceVariant is not an entity type; did you mean Variant?'
    """
    row = entity_type_of(word)
    return f"{word} is not an entity type; {nearest(row.name if row else word, ENTITY_TYPES)}"


def _plain(spelling: str) -> str:
    return re.sub(r"[\s_-]", "", spelling).lower()


_PREFIXES = {
    *("mesh", "gene", "geneid", "ncbigene", "ncbi gene", "ncbi_gene", "taxid", "tax"),
    *("ncbitaxon", "ncbi taxon", "ncbi_taxon", "ncbitaxonomy", "ncbi taxonomy", "ncbi_taxonomy"),
}
_TAXON = re.compile(r"\s*\(tax:", re.I)
_OMIM = re.compile(r"omim_", re.I)
_SCORE = re.compile(r"[+-]?\d*\.\d+(?:e[+-]?\d+)?|[+-]?\d+e[+-]?\d+", re.I)
_CELLOSAURUS = re.compile(r"CVCL[:_](\w+)", re.I)
_RS_NUMBER = re.compile(r"\b(?:rs|RS#:|RSID:)(\d+)\b", re.I)
_CONTEXT = re.compile(r"(?:Corresponding)?(?:Gene|Species|Disease):|VariantGroup:")
_HGVS_PROTEIN = re.compile(r"p\.([A-Z])(-?\d+)([A-Z])")
_HGVS_DNA = re.compile(r"([cgmnr])\.([-+*]?\d+(?:[-+]\d+)?)([ACGTU])>([ACGTU])")


def _without_prefix(identifier: str) -> str:
    if ":" not in identifier:
        return identifier
    prefix, _, rest = identifier.partition(":")
    return rest.strip() if prefix.strip().lower() in _PREFIXES else identifier


def _gene(identifier: str) -> str:
    return _without_prefix(_TAXON.split(identifier, maxsplit=1)[0])


def _mesh(identifier: str) -> str:
    """A MeSH id without its prefix; other namespaces (`OMIM:`, `CHEBI:`) are kept, in capitals.

    >>> _mesh("OMIM_604121")
    'OMIM:604121'
    """
    if not identifier[0].isalpha() and _SCORE.fullmatch(identifier):
        return ""  # LitCovid appends a confidence: `MESH:C000657245;-0.0017`
    namespace, colon, number = _without_prefix(identifier).partition(":")
    if _OMIM.match(namespace):
        namespace, colon, number = namespace.partition("_")
    return f"{namespace.upper()}:{number}" if colon else namespace


def _species(identifier: str) -> str:
    number = _without_prefix(identifier)
    return number if number.isdecimal() else ""


def _cell_line(identifier: str) -> str:
    """A Cellosaurus id, else '': tmVar 3 gives cell lines the number of their species."""
    match = _CELLOSAURUS.fullmatch(identifier)
    return f"CVCL_{match[1].upper()}" if match else ""


def _variant(identifier: str) -> str:
    """The rs number if there is one, else tmVar's core, else the identifier unchanged.

    >>> _variant("tmVar:p|SUB|V|600|E;HGVS:p.V600E;RS#:113488022")
    'rs113488022'
    >>> _variant("p.V600E")
    'p|SUB|V|600|E'
    """
    if rs_number := _RS_NUMBER.search(identifier):
        return f"rs{rs_number[1]}"
    core = identifier.removeprefix("tmVar:").split(";")[0].removeprefix("HGVS:").strip()
    if _CONTEXT.match(core):
        return ""  # a variant that was not identified, of a known gene
    if match := _HGVS_PROTEIN.fullmatch(core):
        return f"p|SUB|{match[1]}|{match[2]}|{match[3]}"
    if match := _HGVS_DNA.fullmatch(core):
        return f"{match[1]}|SUB|{match[3]}|{match[2]}|{match[4]}"
    return core


def _row(
    name: str,
    official: str,
    spellings: str,
    canonical: Callable[[str], str],
    colours: tuple[int, str, str],
    separators: str = ",;|+",  # NCBI-Disease joins the concepts of a composite mention with "+"
) -> EntityType:
    known = frozenset(_plain(word) for word in (name, official, *spellings.split()))
    return EntityType(name, official, known, separators, canonical, *colours)


# FamilyName, DomainMotif, Chromosome, RefSeq and the like have no row on purpose: their identifiers
# do not name a single gene.
ENTITY_TYPES: dict[str, EntityType] = {
    row.name: row
    for row in (
        _row(
            "Gene",
            "GeneOrGeneProduct",
            "Protein GENE-Y GENE-N GeneProduct",
            _gene,
            (295, "#866ec5", "magenta"),
        ),
        _row(
            "Disease",
            "DiseaseOrPhenotypicFeature",
            "SpecificDisease DiseaseClass CompositeMention Modifier Phenotype",
            _mesh,
            (35, "#c16048", "red"),
        ),
        _row("Chemical", "ChemicalEntity", "Drug", _mesh, (150, "#3b9555", "green")),
        _row(
            "Variant",
            "SequenceVariant",
            "Mutation ProteinMutation DNAMutation OtherMutation SNP AcidChange Allele "
            "ProteinAllele DNAAllele CopyNumberVariant",
            _variant,
            (90, "#9e7b00", "yellow"),
            separators="",  # `|`, `,` and `;` occur within an identifier
        ),
        _row("Species", "OrganismTaxon", "Organism Strain", _species, (235, "#008bc2", "blue")),
        _row("CellLine", "CellLine", "", _cell_line, (350, "#b85c8b", "cyan")),
    )
}
ROW_BY_SPELLING = {word: row for row in ENTITY_TYPES.values() for word in row.spellings}
# The index of a type in columns and models.
TYPE_INDEX = {name: index for index, name in enumerate(ENTITY_TYPES)}
