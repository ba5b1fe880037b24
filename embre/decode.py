"""Documents in, the same documents with predicted relations out."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

import torch

from embre.document import Document, Relation
from embre.pairs import PairBatch
from embre.relation_folder import LoadedModel
from embre.tally import Tally


@torch.inference_mode()
def predict(
    loaded: LoadedModel,
    docs: Iterable[Document],
    documents_per_batch: int = 8,
    tally: Tally | None = None,
) -> Iterator[Document]:
    """Each document with the relations that the model finds, in place of those it had.

    A pair is related where 1 - P(None) reaches the threshold, which is `Relation.probability`;
    its type is the most likely legal one, and it is novel where P(novel) is at least one half.
    Pairs that cannot be read are counted in `tally`.
    """
    loaded.model.eval()
    tally = tally or Tally()
    remaining = iter(docs)
    while members := list(islice(remaining, documents_per_batch)):
        # A gold relation is no loss here, so what cannot be learnt from it is not counted.
        bare = [replace(doc, relations=()) for doc in members]
        for doc in members:
            for relation in doc.relations:
                tally.drop("relation/replaced", doc.doc_id, relation.type)
        encoded = [loaded.encoder.encode(doc, tally) for doc in bare]
        found = find_relations(loaded, loaded.encoder.lay(encoded, slot=0))
        for number, doc in enumerate(bare):
            yield replace(doc, relations=tuple(found.get(number, ())))


def find_relations(loaded: LoadedModel, batch: PairBatch) -> dict[int, list[Relation]]:
    """The relations of a batch by the place of their document in it, in the order of pairs."""
    device = next(loaded.model.parameters()).device
    labels_PL, novel_P = loaded.model.probabilities(batch.to(device))
    related = (1 - labels_PL[:, 0]).tolist()
    types = (labels_PL[:, 1:].argmax(1) + 1).tolist()
    novel = (novel_P >= 0.5).tolist()
    found: dict[int, list[Relation]] = {}
    for row, candidate in enumerate(batch.candidates):
        if related[row] >= loaded.threshold:
            relation = Relation(
                head=candidate.first,
                tail=candidate.second,
                type=loaded.encoder.schema.labels[types[row]],
                novel=novel[row],
                probability=related[row],
            )
            found.setdefault(candidate.document, []).append(relation)
    return found
