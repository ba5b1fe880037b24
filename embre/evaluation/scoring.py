"""Scores predicted relations against gold ones, by the counting of the official BioRED scorer."""

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace

from embre.document import Document, Relation
from embre.refused import Refused
from embre.relation_schema import RelationSchema
from embre.tally import Tally

TITLES = {
    "pair": "pair",
    "pair_type": "pair + type",
    "pair_novelty": "pair + novelty",
    "all": "pair + type + novelty",
}
# As heads of columns.
SHORT = {"pair": "pair", "pair_type": "+ type", "pair_novelty": "+ novelty", "all": "all"}
METRICS = tuple(TITLES)
# What a model that learnt one task alone (`pairs.tasks`) says of the other is no result.
NOT_LEARNT = {"relation": {"pair_novelty", "all"}, "novelty": {"pair_type", "all"}}
PROTOCOL_VERSION = (
    3  # raised when `score`, or how fine-tuning decides on the held-out documents, changes
)


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

    def to_json(self) -> dict[str, float]:
        """Counts and rates as plain numbers."""
        rates = {name: round(getattr(self, name), 4) for name in ("precision", "recall", "f1")}
        return {**asdict(self), **rates}


def score(
    gold: Iterable[Document],
    predicted: Iterable[Document],
    tally: Tally | None = None,
) -> dict[str, Score]:
    """One `Score` for each of `METRICS`; see `score_documents`."""
    by_document = score_documents(gold, predicted, tally)
    return {
        metric: Score(
            tp=sum(found.tp for found in scores),
            fp=sum(found.fp for found in scores),
            fn=sum(found.fn for found in scores),
        )
        for metric, scores in by_document.items()
    }


def score_documents(
    gold: Iterable[Document],
    predicted: Iterable[Document],
    tally: Tally | None = None,
) -> dict[str, list[Score]]:
    """For each of `METRICS` the `Score` of each gold document, in their order.

    A gold document that the prediction lacks counts as missed; the official scorer skips it, as
    `only_predicted` does. A predicted document that gold lacks is left out either way.
    `tally` is told of these documents. All relations count: take those that a corpus does not
    annotate away before, on both sides (`only_scored`).
    Where neither side states novelty, the metrics with it equal those without. Where one side alone
    does it is wrong, relation by relation: the official scorer compares the words, and no novelty
    is another word than `Novel`. Verdicts, errors and curves count alike.
    """
    tally = tally or Tally()
    gold_docs, predicted_docs = _by_id(gold, "gold"), _by_id(predicted, "predicted")
    for doc_id in sorted(gold_docs.keys() - predicted_docs.keys()):
        tally.drop("gold_document/not_predicted", doc_id)
    for doc_id in sorted(predicted_docs.keys() - gold_docs.keys()):
        tally.drop("predicted_document/not_in_gold", doc_id)

    by_document: dict[str, list[Score]] = {metric: [] for metric in METRICS}
    for doc_id, doc in gold_docs.items():
        found = predicted_docs.get(doc_id)
        relations = found.relations if found else ()
        said, true = _facts(relations), _facts(doc.relations)
        for metric in METRICS:
            by_document[metric].append(
                Score(
                    tp=len(true[metric] & said[metric]),
                    fp=len(said[metric] - true[metric]),
                    fn=len(true[metric] - said[metric]),
                )
            )
    return by_document


def learnt_metrics(schema: RelationSchema, tasks: str) -> tuple[str, ...]:
    """The metrics that a run has learnt something of, the last the strictest. `schema` is that of
    the corpus it is scored on, `tasks` its `pairs.tasks`.

    What is shown, logged or compared of a run is these: the F1 of a task that nobody learnt is 0,
    or in a corpus without novelty that of another metric, and would be read as a result.
    """
    lacking = NOT_LEARNT.get(tasks, set())
    if not schema.novelty:
        lacking = lacking | {"pair_novelty", "all"}
    return tuple(metric for metric in METRICS if metric not in lacking)


def scoring_protocol(schema: RelationSchema) -> str:
    """The name of how relations are counted under a schema, as `biored/3f0c9a51d2e4`.

    Two scores on the same documents may be compared where it is the same: same legal pairs, same
    meaning of the labels, same pairs left out, novelty or not.
    """
    rules = {
        "rules": PROTOCOL_VERSION,
        "legal": {" ".join(pair): sorted(types) for pair, types in schema.legal.items()},
        "label_map": dict(schema.label_map),
        "novelty": schema.novelty,
        "not_scored": sorted(" ".join(pair) for pair in schema.not_scored),
    }
    text = json.dumps(rules, sort_keys=True)
    return f"{schema.name}/{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def only_scored(
    docs: Iterable[Document], not_scored: Collection[tuple[str, str]], tally: Tally, side: str
) -> list[Document]:
    """The documents without the relations between types that a corpus does not annotate
    (`RelationSchema.not_scored`), as the official scorer leaves them out. `tally` is told of them;
    `side` is `gold` or `predicted`."""
    found = []
    for doc in docs:
        kept = []
        for relation in doc.relations:
            first, second = relation.pair
            if (first.type, second.type) in not_scored:
                tally.drop(f"{side}_relation/not_scored", doc.doc_id, f"{first} {second}")
            else:
                kept.append(relation)
        found.append(replace(doc, relations=tuple(kept)))
    return found


def only_predicted(
    gold: Iterable[Document], predicted: Iterable[Document], tally: Tally
) -> list[Document]:
    """The gold documents that were predicted: the official scorer knows no others. `tally` is told
    of the rest."""
    have = {doc.doc_id for doc in predicted}
    found = []
    for doc in gold:
        if doc.doc_id in have:
            found.append(doc)
        else:
            tally.drop("gold_document/not_predicted", doc.doc_id)
    return found


def floor(gold: Iterable[Document], schema: RelationSchema) -> list[Document]:
    """The trivial system: every legal candidate pair has the first type that it may have, and is
    novel where the corpus says what is. In BioRED: a novel Association."""
    novel = True if schema.novelty else None
    return [
        replace(
            doc,
            relations=tuple(
                Relation(head, tail, schema.first_legal(head, tail), novel)
                for head, tail in schema.candidates(doc)
            ),
        )
        for doc in gold
    ]


def _by_id(docs: Iterable[Document], side: str) -> dict[str, Document]:
    by_id: dict[str, Document] = {}
    for doc in docs:
        if doc.doc_id in by_id:
            raise Refused(
                f"document {doc.doc_id} occurs twice among the {side} ones; leave one out"
            )
        by_id[doc.doc_id] = doc
    return by_id


def _facts(relations: Iterable[Relation]) -> dict[str, set[tuple]]:
    """What the relations of a document claim, as each metric sees it."""
    facts: dict[str, set[tuple]] = {metric: set() for metric in METRICS}
    for relation in relations:
        pair = relation.pair
        facts["pair"].add(pair)
        facts["pair_type"].add((*pair, relation.type))
        facts["pair_novelty"].add((*pair, relation.novel))
        facts["all"].add((*pair, relation.type, relation.novel))
    return facts
