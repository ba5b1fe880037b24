"""A single HTML page for curators: predicted relations beside their text, compared with gold."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2

from embre.atomic_files import write_atomic
from embre.document import Concept, Document, Passage
from embre.entity_types import ENTITY_TYPES
from embre.evaluation.evaluate import Evaluation
from embre.evaluation.matching import OUTCOMES, RelationMatch, concept_names, match_relations
from embre.evaluation.view import evaluation_view

# Hues in degrees of OKLCH; the page sets lightness and chroma, so contrast is right in dark mode
# too. Other names get hues by the golden angle.
ENTITY_HUES = {name: row.hue for name, row in ENTITY_TYPES.items()}
RELATION_HUES = {
    "Association": 250,
    "Positive_Correlation": 150,
    "Negative_Correlation": 25,
    "Bind": 300,
    "Cotreatment": 200,
    "Comparison": 75,
    "Drug_Interaction": 340,
    "Conversion": 115,
}


def pieces(doc: Document, passage: Passage) -> list[tuple[str, list[int]]]:
    """Split a passage wherever a mention begins or ends; each piece with the mentions covering it.

    Mentions are indices into `doc.mentions`, outermost first, so nested and overlapping ones are
    all kept: in "BRCA1 V600E", mention 0 over all and 1 over "V600E", the pieces are
    `("BRCA1 ", [0]), ("V600E", [0, 1])`.
    """
    start, end = passage.start, passage.end
    inside = [
        (number, mention)
        for number, mention in enumerate(doc.mentions)
        if mention.start < end and mention.end > start
    ]
    inside.sort(key=lambda item: (item[1].start, -item[1].end))
    edges = {max(m.start, start) for _, m in inside} | {min(m.end, end) for _, m in inside}
    cuts = sorted(edges | {start, end})
    return [
        (doc.text[low:high], [number for number, m in inside if m.start <= low and high <= m.end])
        for low, high in zip(cuts, cuts[1:], strict=False)
    ]


def document_view(doc: Document, gold: Document | None = None) -> dict[str, Any]:
    """The page's data of one document; concepts and mentions are referred to by list index."""
    if gold is None:
        matches = [RelationMatch(relation, None, "") for relation in doc.relations]
    else:
        matches = match_relations(doc.relations, gold.relations)
    # Most probable first; missed relations have no probability and come last.
    matches.sort(key=lambda match: -(match.relation.probability or 0))
    names = concept_names([*doc.mentions, *(gold.mentions if gold else ())])
    related = [concept for match in matches for concept in match.relation.pair]
    numbers: dict[Concept, int] = {}
    for concept in [*doc.mentions_by_concept(), *related]:
        numbers.setdefault(concept, len(numbers))
    title = next((p for p in doc.passages if p.kind == "title"), None)
    return {
        "id": doc.doc_id,
        "pmid": doc.pmid,
        "title": doc.text[title.start : title.end] if title else "",
        "passages": [
            {"kind": p.kind, "section": p.section, "pieces": pieces(doc, p)} for p in doc.passages
        ],
        "mentions": [
            {"type": m.type, "concepts": [numbers[c] for c in dict.fromkeys(m.concepts)]}
            for m in doc.mentions
        ],
        "concepts": [
            {"type": c.type, "identifier": c.identifier, "name": names.get(c, c.identifier)}
            for c in numbers
        ],
        "relations": [_relation_view(match, numbers) for match in matches],
        "tally": Counter(match.outcome for match in matches if match.outcome),
    }


def _relation_view(match: RelationMatch, numbers: Mapping[Concept, int]) -> dict[str, Any]:
    relation, gold = match.relation, match.gold if match.predicted else None
    return {
        "concepts": [numbers[relation.head], numbers[relation.tail]],
        "type": relation.type,
        "novel": relation.novel,
        "probability": relation.probability,
        "outcome": match.outcome,
        "gold": gold and {"type": gold.type, "novel": gold.novel},
    }


def report_view(
    predicted: Sequence[Document], gold: Sequence[Document] | None = None
) -> dict[str, Any]:
    """The page's data: every document, gold-only ones last, and the types with their hues.

    Relations of a document that gold lacks have no outcome.
    """
    gold_by_id = {doc.doc_id: doc for doc in gold or ()}
    predicted_ids = {doc.doc_id for doc in predicted}
    not_predicted = [
        replace(doc, relations=()) for doc in gold or () if doc.doc_id not in predicted_ids
    ]
    docs = [document_view(doc, gold_by_id.get(doc.doc_id)) for doc in [*predicted, *not_predicted]]
    entity_types = {item["type"] for doc in docs for item in doc["mentions"] + doc["concepts"]}
    relation_types = {relation["type"] for doc in docs for relation in doc["relations"]}
    return {
        "documents": docs,
        "entityTypes": with_hues(entity_types, ENTITY_HUES),
        "relationTypes": with_hues(relation_types, RELATION_HUES),
        "outcomes": OUTCOMES if gold is not None else (),
    }


def with_hues(names: Iterable[str], hues: Mapping[str, int]) -> list[dict[str, Any]]:
    """Names with their hues: known ones in the order of `hues`, then the others sorted."""
    unknown = sorted(set(names) - hues.keys())
    known = [{"name": name, "hue": hue} for name, hue in hues.items() if name in set(names)]
    return known + [{"name": n, "hue": (190 + 137 * i) % 360} for i, n in enumerate(unknown)]


def write_report(
    path: Path,
    predicted: Sequence[Document],
    gold: Sequence[Document] | None = None,
    title: str = "Relations and novelty",
    facts: Mapping[str, str] = {},
    evaluation: Evaluation | None = None,
) -> None:
    """Write the page, which loads nothing from the network. `facts` are shown beside the totals, an
    evaluation in a section of its own, collapsed at first."""
    view = report_view(predicted, gold)
    novelties = [r.novel for doc in predicted for r in doc.relations if r.novel is not None]
    totals = {
        "documents": f"{len(view['documents']):,}",
        "mentions": f"{sum(len(doc.mentions) for doc in predicted):,}",
        "relations": f"{sum(len(doc.relations) for doc in predicted):,}",
        "novel": f"{sum(novelties) / len(novelties):.0%}" if novelties else "not stated",
    }
    page = jinja2.Environment(
        loader=jinja2.PackageLoader("embre.evaluation", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    shown = evaluation and evaluation_view(evaluation)
    filled = page.get_template("report.html.j2").render(
        title=title, totals=totals, facts=facts, view=view, evaluation=shown
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, filled.encode())
