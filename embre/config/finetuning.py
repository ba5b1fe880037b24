"""A fine-tuning run: which documents, and the relation model on top of the encoder."""

from typing import Literal

from pydantic import Field, model_validator

from embre.config.run import RunConfig
from embre.config.sections import Section


class PairConfig(Section):
    """The relation model on top of the encoder."""

    encoding: Literal["document"] = "document"
    hidden: int = Field(default=256, gt=0, description="width of the two MLPs")
    context_heads: int = Field(
        default=4, gt=0, description="ways in which two concepts share a context"
    )
    dropout: float = Field(default=0.1, ge=0, lt=1)
    window_overlap: int = Field(
        default=128, ge=0, description="tokens two windows of a document share"
    )
    none_weight: float = Field(
        default=1.0, gt=0, description="weight of the label None in the loss"
    )
    threshold: float = Field(
        default=0.5, gt=0, lt=1, description="probability from which a pair is related"
    )


class CorpusConfig(Section):
    """The annotated documents of a fine-tuning run."""

    corpus: str = Field(default="biored", description="label set: a name in embre.corpora.CORPORA")
    train: str = Field(description="file or folder of annotated documents")
    dev: str = Field(description="file or folder that the run is scored on")
    documents_per_micro_batch: int = Field(default=4, gt=0)
    micro_batches: int = Field(
        default=4, gt=0, description="micro-batches of a step, over all ranks"
    )
    max_document_tokens: int = Field(
        default=512, gt=2, description="longer documents: several windows"
    )


class FinetuneConfig(RunConfig):
    """A fine-tuning run: annotated documents and an encoder → relation model."""

    data: CorpusConfig
    pairs: PairConfig = PairConfig()

    @model_validator(mode="after")
    def _is_not_compiled(self) -> "FinetuneConfig":
        if self.encoder.compile:
            raise ValueError(
                "encoder.compile is for pretraining: a strip of documents with pairs "
                "has another length each time; remove it"
            )
        return self
