"""Relation and novelty labels of the candidate pairs of a document."""

from collections.abc import Sequence

import numpy as np

from embre.document import Concept, Document, Relation
from embre.relation_schema import RelationSchema
from embre.relations.passes import NOT_NOVEL, NOVEL, UNLABELLED
from embre.tally import Tally


def label_pairs(
    doc: Document,
    schema: RelationSchema,
    candidates: Sequence[tuple[Concept, Concept]],
    tally: Tally,
) -> tuple[np.ndarray, np.ndarray]:
    """Relation and novelty labels (P,) of the candidates, from the document's relations.

    Dropped and counted in `tally`: relations of pairs that are not candidates, and relations of an
    illegal type for a pair that also has a legal one. A pair with only an illegal relation is
    UNLABELLED: it is related, but with no type of the schema.
    """
    relations = np.zeros(len(candidates), dtype=np.int64)
    novelties = np.full(len(candidates), UNLABELLED, dtype=np.int64)
    if not doc.relations:  # as in prediction
        return relations, novelties
    index = {pair: row for row, pair in enumerate(candidates)}
    labelled = set()

    def is_legal(relation: Relation) -> bool:
        return relation.type in schema.legal_types(*relation.pair)

    for relation in sorted(doc.relations, key=is_legal, reverse=True):  # legal ones first; stable
        place = f"{relation.head} {relation.type} {relation.tail}"
        row = index.get(relation.pair)
        if row is None:
            why = "with_itself" if relation.head == relation.tail else "not_a_candidate_pair"
            tally.drop(f"relation/{why}", doc.doc_id, place)
            continue
        legal = is_legal(relation)
        if not legal:
            tally.drop("relation/illegal_type", doc.doc_id, place)
        elif row in labelled:
            tally.drop("relation/second_of_its_pair", doc.doc_id, place)
        if row in labelled:
            continue
        labelled.add(row)
        relations[row] = schema.labels.index(relation.type) if legal else UNLABELLED
        if relation.novel is not None:
            novelties[row] = NOVEL if relation.novel else NOT_NOVEL
    return relations, novelties
