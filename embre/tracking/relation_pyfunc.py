"""The registered relation model: PubTator text in, a table of relations out."""

import io
import logging
from typing import Any

import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from pydantic import BaseModel

from embre.corpora import pubtator
from embre.entity_types import spelled_identifier
from embre.refused import Refused
from embre.relations.decode import predict
from embre.relations.model_folder import load_relation_model
from embre.tally import REPAIRED, Tally

log = logging.getLogger(__name__)
REFUSED = ("document/", "line/")  # reasons; a mention that is dropped costs its pairs alone


class RelationRow(BaseModel):
    """One predicted relation; the identifiers are spelt as in the text that came in.

    `novel` is None of a model whose corpus says nothing about novelty.
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
        self.model = load_relation_model(context.artifacts["model"], torch.device("cpu"))

    def predict(self, model_input: list[str]) -> list[RelationRow]:
        """Each string is PubTator text of one or more documents, mentions included.

        Raises Refused where a line or a document cannot be read, or no document is found.
        """
        tally = Tally()
        docs = []
        for number, text in enumerate(model_input):
            stream = io.BytesIO(text.encode())
            found = list(pubtator.read(stream, f"input {number}", tally))
            if not found:
                raise Refused(f"input {number}: no PubTator document (no line ID|t|title)")
            docs += found
        lost = {
            reason: f"{reason} {places[0]}"
            for reason, places in tally.examples.items()
            if not reason.startswith(REPAIRED)
        }
        if unreadable := [said for reason, said in lost.items() if reason.startswith(REFUSED)]:
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
