"""Relation and novelty labels of the candidate pairs of a document.

A relation label is 0 for None, otherwise 1 + the index of a type in the schema, or UNLABELLED.
"""

from collections.abc import Sequence

import numpy as np

from embre.document import Concept, Document, Relation
from embre.relation_schema import RelationSchema
from embre.tally import Tally

UNLABELLED = -100  # no target: the label that torch's cross-entropy ignores
# Novelty labels. The first and last occur only if the novelty head also detects relations; RELATED
# is related with unknown novelty.
UNRELATED, NOT_NOVEL, NOVEL, RELATED = range(4)


def label_pairs(
    doc: Document,
    schema: RelationSchema,
    candidates: Sequence[tuple[Concept, Concept]],
    tally: Tally,
    label_all: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Relation and novelty labels (P,) of the candidates, from the document's relations.

    A pair whose novelty is not stated is UNLABELLED, or with `label_all` UNRELATED or RELATED.
    Dropped and counted in `tally`: relations of pairs that are not candidates, and relations of an
    illegal type for a pair that also has a legal one. A pair with only an illegal relation is
    UNLABELLED: it is related, but with no type of the schema.
    """
    relations = np.zeros(len(candidates), dtype=np.int64)
    novelties = np.full(len(candidates), UNLABELLED, dtype=np.int64)
    for row, relation in _relation_of_pairs(doc, schema, candidates, tally).items():
        legal = _is_legal(relation, schema)
        relations[row] = schema.labels.index(relation.type) if legal else UNLABELLED
        if relation.novel is not None:
            novelties[row] = NOVEL if relation.novel else NOT_NOVEL
    if label_all:
        detected = np.where(relations == 0, UNRELATED, RELATED)
        novelties = np.where(novelties == UNLABELLED, detected, novelties)
    return relations, novelties


def _relation_of_pairs(
    doc: Document,
    schema: RelationSchema,
    candidates: Sequence[tuple[Concept, Concept]],
    tally: Tally,
) -> dict[int, Relation]:
    """The relation that each related candidate is learnt with, by its index: the first legal one,
    or else the first."""
    index = {pair: row for row, pair in enumerate(candidates)} if doc.relations else {}
    chosen: dict[int, Relation] = {}
    # A stable sort: legal relations first.
    for relation in sorted(doc.relations, key=lambda r: not _is_legal(r, schema)):
        text = f"{relation.head} {relation.type} {relation.tail}"
        row = index.get(relation.pair)
        if row is None:
            why = "with_itself" if relation.head == relation.tail else "not_a_candidate_pair"
            tally.drop(f"relation/{why}", doc.doc_id, text)
            continue
        if not _is_legal(relation, schema):
            tally.drop("relation/illegal_type", doc.doc_id, text)
        elif row in chosen:
            tally.drop("relation/second_of_its_pair", doc.doc_id, text)
        chosen.setdefault(row, relation)
    return chosen


def _is_legal(relation: Relation, schema: RelationSchema) -> bool:
    return relation.type in schema.legal_types(*relation.pair)
