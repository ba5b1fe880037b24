"""Scores predicted relations against gold ones, by the counting of the official BioRED scorer."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from embre.document import Document, Relation
from embre.relation_schema import RelationSchema
from embre.tally import Tally

METRICS = ("pair", "pair_type", "pair_novelty", "all")

# The official scorer leaves these out on both sides: BioRED does not annotate them.
NOT_SCORED = frozenset({("Disease", "Disease"), ("Gene", "Variant"), ("Gene", "Species")})


@dataclass(frozen=True, slots=True)
class Score:
    """Relations found, invented and missed, summed over all documents (micro).

    >>> round(Score(tp=1163, fp=5884, fn=0).f1, 4)
    0.2833
    """

    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float:
        return self.tp / (self.tp + self.fp) if self.tp else 0.0

    @property
    def recall(self) -> float:
        return self.tp / (self.tp + self.fn) if self.tp else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp else 0.0


def score(
    gold: Iterable[Document],
    predicted: Iterable[Document],
    official: bool = False,
    tally: Tally | None = None,
) -> dict[str, Score]:
    """One `Score` for each of `METRICS`.

    A gold document that the prediction lacks counts as missed; the official scorer skips it, and
    so do we where `official` is set. A predicted document that gold lacks is left out either way.
    `tally` is told of these documents, and of the relations between types that are not scored.
    """
    tally = tally or Tally()
    gold_docs, predicted_docs = _by_id(gold, "gold"), _by_id(predicted, "predicted")
    for doc_id in sorted(gold_docs.keys() - predicted_docs.keys()):
        tally.drop("gold_document/not_predicted", doc_id)
    for doc_id in sorted(predicted_docs.keys() - gold_docs.keys()):
        tally.drop("predicted_document/not_in_gold", doc_id)

    said = _facts([doc for i, doc in predicted_docs.items() if i in gold_docs], "predicted", tally)
    true = _facts(
        [doc for i, doc in gold_docs.items() if i in predicted_docs or not official], "gold", tally
    )
    return {
        metric: Score(
            tp=len(true[metric] & said[metric]),
            fp=len(said[metric] - true[metric]),
            fn=len(true[metric] - said[metric]),
        )
        for metric in METRICS
    }


def floor(
    gold: Iterable[Document], schema: RelationSchema, relation_type: str = "Association"
) -> list[Document]:
    """The trivial system: every legal candidate pair is a novel Association."""
    return [
        replace(
            doc,
            relations=tuple(
                Relation(head, tail, relation_type, novel=True)
                for head, tail in schema.candidates(doc)
            ),
        )
        for doc in gold
    ]


def _by_id(docs: Iterable[Document], side: str) -> dict[str, Document]:
    by_id: dict[str, Document] = {}
    for doc in docs:
        if doc.doc_id in by_id:
            raise ValueError(
                f"document {doc.doc_id} occurs twice among the {side} ones; leave one out"
            )
        by_id[doc.doc_id] = doc
    return by_id


def _facts(docs: Iterable[Document], side: str, tally: Tally) -> dict[str, set[tuple]]:
    """What the documents claim, as each metric sees it."""
    facts: dict[str, set[tuple]] = {metric: set() for metric in METRICS}
    for doc in docs:
        for relation in doc.relations:
            first, second = relation.pair
            if (first.type, second.type) in NOT_SCORED:
                tally.drop(f"{side}_relation/not_scored", doc.doc_id, f"{first} {second}")
                continue
            pair = (doc.doc_id, first, second)
            facts["pair"].add(pair)
            facts["pair_type"].add((*pair, relation.type))
            facts["pair_novelty"].add((*pair, relation.novel))
            facts["all"].add((*pair, relation.type, relation.novel))
    return facts
