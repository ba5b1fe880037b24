"""A fine-tuning run: which documents, and the relation model on top of the encoder."""

from typing import Literal

from pydantic import Field, model_validator

from embre.config.run import RunConfig
from embre.config.sections import Section


class PairConfig(Section):
    """The relation model on top of the encoder."""

    encoding: Literal["document", "pairwise"] = Field(
        default="document", description="a pass for each document, or for each pair as in the paper"
    )
    attention: Literal["plain", "entity_aware"] = Field(
        default="plain", description="entity_aware: it knows which tokens are of which concept"
    )
    tasks: Literal["both", "relation", "novelty"] = Field(
        default="both", description="what is learnt: both heads, or one alone"
    )
    novelty_of: Literal["related", "all"] = Field(
        default="related", description="pairs that novelty is learnt of; all: None is a third label"
    )
    loss: Literal["cross_entropy", "adaptive_threshold"] = "cross_entropy"
    none_weight: float = Field(
        default=1.0, gt=0, description="weight of the pairs labelled None in the relation loss"
    )
    hidden: int = Field(default=256, gt=0, description="width of the two MLPs")
    context_heads: int = Field(
        default=4, gt=0, description="ways in which two concepts share a context"
    )
    dropout: float = Field(default=0.1, ge=0, lt=1)
    window_overlap: int = Field(
        default=128, ge=0, description="tokens two windows of a document share"
    )

    @model_validator(mode="after")
    def _pairs_are_found(self) -> "PairConfig":
        if self.tasks == "novelty" and self.novelty_of == "related":
            raise ValueError(
                "tasks: novelty alone does not say which pairs are related; set novelty_of to all"
            )
        return self


class CorpusConfig(Section):
    """The annotated documents of a fine-tuning run."""

    corpus: str = Field(default="biored", description="label set: a name in embre.corpora.CORPORA")
    train: str = Field(description="file or folder of annotated documents")
    dev: str = Field(description="file or folder that the run is scored on")
    passes_per_micro_batch: int = Field(
        default=4, gt=0, description="documents, or with pairs.encoding pairwise candidate pairs"
    )
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
