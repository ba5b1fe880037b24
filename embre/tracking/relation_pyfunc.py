"""The registered relation model: PubTator text in, a table of relations out.

It runs on the device of EMBRE_DEVICE if set, else on a GPU if there is one, else on the CPU.
"""

import io
import logging
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from pydantic import BaseModel

from embre.corpora import pubtator
from embre.entity_types import spelled_identifier
from embre.refused import Refused
from embre.relations.decode import predict
from embre.relations.model_folder import load_relation_model
from embre.tally import REPAIRED, Tally
from embre.tracking.serving_device import serving_device

log = logging.getLogger(__name__)
REFUSED = ("document/", "line/")  # prefixes; a dropped mention loses only its own pairs


class RelationRow(BaseModel):
    """One predicted relation; identifiers are spelt as in the input.

    `novel` is None if the model's training corpus has no novelty labels.
    """

    document: str
    type: str
    first_type: str
    first: str
    second_type: str
    second: str
    novel: bool | None = None
    probability: float


class RelationPyfunc(PythonModel):
    """Scores every legal pair of the annotated concepts of each document."""

    def load_context(self, context: Any) -> None:
        self.model = load_relation_model(context.artifacts["model"], serving_device())

    def predict(self, model_input: list[str]) -> list[RelationRow]:
        """Predict the relations of all documents. Each string is PubTator text of one or more
        documents with their mentions.

        Raises Refused if a line or a document cannot be read, or a string has no document.
        """
        tally = Tally()
        docs = []
        for number, text in enumerate(model_input):
            stream = io.BytesIO(text.encode())
            read = list(pubtator.read(stream, f"input {number}", tally))
            if not read:
                raise Refused(f"input {number}: no PubTator document (no line ID|t|title)")
            docs += read
        lost = {
            reason: f"{reason} {places[0]}"
            for reason, places in tally.examples.items()
            if not reason.startswith(REPAIRED)
        }
        if unreadable := [text for reason, text in lost.items() if reason.startswith(REFUSED)]:
            raise Refused("; ".join(unreadable))
        if lost:
            log.warning("%s", "; ".join(lost.values()))
        return [
            RelationRow(
                document=doc.doc_id,
                type=relation.type,
                first_type=relation.head.type,
                first=spelled_identifier(doc, relation.head),
                second_type=relation.tail.type,
                second=spelled_identifier(doc, relation.tail),
                novel=relation.novel,
                probability=float(relation.probability or 0.0),
            )
            for doc in predict(self.model, docs, tally)
            for relation in doc.relations
        ]


set_model(RelationPyfunc())
