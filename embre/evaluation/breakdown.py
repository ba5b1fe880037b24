"""Breakdown of scores: by groups of relations, as a confusion matrix, as a list of errors.

Text and mentions are those of the gold documents; predicted documents that gold lacks are left out.
All relations count: first remove those that are not scored (`scoring.only_scored`).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from embre.document import Concept, Document, Relation
from embre.evaluation.matching import concept_names, match_documents
from embre.evaluation.scoring import Score, score
from embre.relation_schema import NONE, RelationSchema
from embre.relations.pair_location import Pair, PairLocator

Groups = dict[str, dict[str, Score]]  # group → metric → score


@dataclass(frozen=True, slots=True)
class Confusion:
    """`counts` (L, L) of pairs by gold label (row) and predicted label (column); None is first."""

    labels: tuple[str, ...]
    counts: np.ndarray


@dataclass(frozen=True, slots=True)
class Error:
    """A missed, spurious or wrong relation.

    The type is '' on the side that has no relation; `probability` is that of the pair being
    related, None if unknown; `text` is the sentence or the two in which the concepts are nearest.
    """

    doc_id: str
    outcome: str
    first: Concept
    first_name: str
    second: Concept
    second_name: str
    gold_type: str
    gold_novel: bool | None
    predicted_type: str
    predicted_novel: bool | None
    probability: float | None
    text: str


def by_relation_type(gold: Sequence[Document], predicted: Sequence[Document]) -> Groups:
    """Recall by gold type and precision by predicted type, for the two metrics with types."""
    groups = _grouped(gold, predicted, lambda doc, relation: relation.type)
    return {
        name: {metric: scores[metric] for metric in ("pair_type", "all")}
        for name, scores in groups.items()
    }


def by_pair_type(gold: Sequence[Document], predicted: Sequence[Document]) -> Groups:
    """Scores by the types of the two concepts."""
    return _grouped(gold, predicted, lambda doc, relation: _pair_type(relation.pair))


def by_distance(gold: Sequence[Document], predicted: Sequence[Document]) -> Groups:
    """Scores by the distance in sentences between the nearest mentions of the two concepts."""

    def distance(doc: Document, relation: Relation) -> str:
        apart = locator_of(doc).locate(relation.pair).sentences
        if apart is None:
            return "not mentioned"
        return ("same sentence", "next sentence", "farther apart")[min(apart, 2)]

    locator_of = _locator_of_documents()
    return _ordered(
        _grouped(gold, predicted, distance),
        ("same sentence", "next sentence", "farther apart", "not mentioned"),
    )


def by_mentions(gold: Sequence[Document], predicted: Sequence[Document]) -> Groups:
    """Scores by the number of mentions of the rarer concept."""

    def mentions(doc: Document, relation: Relation) -> str:
        number = locator_of(doc).locate(relation.pair).mentions
        return "1 or none" if number <= 1 else "2 or 3" if number <= 3 else "4 or more"

    locator_of = _locator_of_documents()
    return _ordered(_grouped(gold, predicted, mentions), ("1 or none", "2 or 3", "4 or more"))


def by_seen(
    gold: Sequence[Document], predicted: Sequence[Document], training: Sequence[Document]
) -> Groups:
    """Scores by what the training documents contain: the pair as related, or else both concepts,
    one or neither."""
    related = {relation.pair for doc in training for relation in doc.relations}
    known = {c for doc in training for mention in doc.mentions for c in mention.concepts}

    def seen(doc: Document, relation: Relation) -> str:
        if relation.pair in related:
            return "the pair, related"
        return ("neither concept", "one concept", "both concepts")[
            sum(concept in known for concept in relation.pair)
        ]

    return _ordered(
        _grouped(gold, predicted, seen),
        ("the pair, related", "both concepts", "one concept", "neither concept"),
    )


def confusion(
    gold: Sequence[Document], predicted: Sequence[Document], schema: RelationSchema | None = None
) -> Confusion:
    """The confusion matrix over all pairs with a label, and with a schema over all candidates.

    Each relation of a pair counts; `match_relations` says which gold and predicted ones belong
    together.
    """
    cells: Counter[tuple[str, str]] = Counter()
    for doc, matches in match_documents(gold, predicted):
        for match in matches:
            cells[_label(match.gold), _label(match.predicted)] += 1
        if schema is not None:
            taken = {match.relation.pair for match in matches}
            cells[NONE, NONE] += len(set(schema.candidates(doc)) - taken)
    known = schema.relation_types if schema else ()
    others = sorted({label for cell in cells for label in cell} - {NONE, *known})
    labels = (NONE, *known, *others)
    counts = np.array([[cells[row, column] for column in labels] for row in labels])
    return Confusion(labels, counts)


def errors(
    gold: Sequence[Document],
    predicted: Sequence[Document],
    probabilities: Mapping[tuple[str, Pair], float] | None = None,
) -> list[Error]:
    """All missed and spurious relations and those of a wrong type or novelty, in the order of gold.

    `probabilities`, by document id and pair, are used for relations that have none of their own.
    """
    known = probabilities or {}
    found = []
    for doc, matches in match_documents(gold, predicted):
        names, places = concept_names(doc.mentions), PairLocator(doc)
        for match in matches:
            if match.outcome == "correct":
                continue
            prediction, true, _ = match
            first, second = pair = match.relation.pair
            probability = prediction.probability if prediction else None
            found.append(
                Error(
                    doc_id=doc.doc_id,
                    outcome=match.outcome,
                    first=first,
                    first_name=names.get(first, first.identifier),
                    second=second,
                    second_name=names.get(second, second.identifier),
                    gold_type=true.type if true else "",
                    gold_novel=true.novel if true else None,
                    predicted_type=prediction.type if prediction else "",
                    predicted_novel=prediction.novel if prediction else None,
                    probability=known.get((doc.doc_id, pair))
                    if probability is None
                    else probability,
                    text=places.text(pair),
                )
            )
    return found


def _locator_of_documents() -> Callable[[Document], PairLocator]:
    """A function document → PairLocator that splits each document into sentences only once."""
    known: dict[str, PairLocator] = {}

    def locator_of(doc: Document) -> PairLocator:
        if doc.doc_id not in known:
            known[doc.doc_id] = PairLocator(doc)
        return known[doc.doc_id]

    return locator_of


def _grouped(
    gold: Sequence[Document],
    predicted: Sequence[Document],
    group_of: Callable[[Document, Relation], str],
) -> Groups:
    """Score each group separately, both sides with only the relations of the group.

    If the group depends on the pair alone, the counts of all groups add up to those of the whole.
    """
    by_id = {doc.doc_id: doc for doc in gold}
    parts: defaultdict[str, tuple[list[Document], list[Document]]] = defaultdict(lambda: ([], []))
    for side, docs in enumerate((gold, predicted)):
        for doc in docs:
            if (true := by_id.get(doc.doc_id)) is None:
                continue
            relations: defaultdict[str, list[Relation]] = defaultdict(list)
            for relation in doc.relations:
                relations[group_of(true, relation)].append(relation)
            for name, members in relations.items():
                parts[name][side].append(replace(doc, relations=tuple(members)))
    return {
        name: _scores(*parts[name])
        for name in sorted(parts, key=lambda n: (-sum(len(d.relations) for d in parts[n][0]), n))
    }


def _scores(gold: list[Document], predicted: list[Document]) -> dict[str, Score]:
    """Score with an empty gold document for each that only the prediction has, which would be
    left out otherwise."""
    have = {doc.doc_id for doc in gold}
    empty = [replace(doc, relations=()) for doc in predicted if doc.doc_id not in have]
    return score([*gold, *empty], predicted)


def _ordered(groups: Groups, names: Sequence[str]) -> Groups:
    return {name: groups[name] for name in names if name in groups}


def _pair_type(pair: Pair) -> str:
    return " ".join(sorted(concept.type for concept in pair))


def _label(relation: Relation | None) -> str:
    return relation.type if relation else NONE
