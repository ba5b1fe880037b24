"""The config of a fine-tuning run: documents, and the relation model on top of the encoder."""

from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from embre.config.run import RunConfig, refuse_other_kind
from embre.config.sections import Section
from embre.entity_types import entity_type_of, unknown_type
from embre.refused import Refused


class PairConfig(Section):
    """The relation model on top of the encoder."""

    encoding: Literal["document", "pairwise"] = Field(
        default="document", description="one forward pass per document, or per pair as in the paper"
    )
    attention: Literal["plain", "entity_aware"] = Field(
        default="plain",
        description="entity_aware: attention uses which tokens belong to which concept",
    )
    tasks: Literal["both", "relation", "novelty"] = Field(
        default="both", description="heads to train: both, or only one"
    )
    detection_head: Literal["relation", "novelty"] = Field(
        default="novelty",
        description="head that decides whether a pair is related; novelty has a class 'unrelated' "
        "and needs corpora that agree on which pairs are related",
    )
    loss: Literal["cross_entropy", "adaptive_threshold"] = Field(
        default="cross_entropy",
        description="loss of the relation head; adaptive_threshold is ATLOP's",
    )
    none_weight: float = Field(
        default=1.0,
        gt=0,
        description="weight of unrelated pairs in the loss of the detection head",
    )
    type_weight: float = Field(
        default=0.3,
        ge=0,
        description="weight of the type loss, a mean over related pairs; 0 as in the paper, with "
        "detection_head relation, whose loss alone then trains the types",
    )
    hidden: int = Field(default=256, gt=0, description="width of the two MLPs")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout in the two MLPs")
    window_overlap: int = Field(
        default=128, ge=0, description="tokens shared by neighbouring windows of a document"
    )

    @model_validator(mode="after")
    def _pairs_are_found(self) -> "PairConfig":
        if self.tasks == "novelty" and self.detection_head == "relation":
            raise Refused(
                "tasks=novelty needs detection_head=novelty: the relation head is not trained"
            )
        if self.novelty_head_detects and self.loss == "adaptive_threshold":
            raise Refused(
                "loss=adaptive_threshold needs detection_head=relation: its threshold is a class "
                "of that head"
            )
        if self.novelty_head_detects and self.tasks == "both" and not self.type_weight:
            raise Refused(
                "type_weight must be > 0 with detection_head=novelty: no other loss trains types"
            )
        return self

    @property
    def novelty_head_detects(self) -> bool:
        """Whether the novelty head, not the relation head, decides which pairs are related."""
        return self.detection_head == "novelty" and self.tasks != "relation"


class SchemaConfig(Section):
    """The relations of a corpus: `biored`, or {name: mine, legal: {Chemical Disease: [CID]}}.

    A name in `embre.corpora.CORPORA` is complete; any other name needs `legal`.
    """

    model_config = ConfigDict(json_schema_extra={"type": ["object", "string"]})

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
        description="biored, bc5cdr, or another with `legal`",
    )
    legal: dict[str, list[str]] | None = Field(
        default=None, description="the relation types of each pair of entity types"
    )
    label_map: dict[str, str | None] = Field(
        default={}, description="label in the files -> relation type; null drops the label"
    )
    novelty: bool | None = Field(
        default=None,
        description="whether relations state Novel or No; default of a new corpus: false",
    )

    @model_validator(mode="before")
    @classmethod
    def _a_name_alone(cls, values: Any) -> Any:
        return {"name": values} if isinstance(values, str) else values

    @field_validator("legal")
    @classmethod
    def _pairs_known(cls, legal: dict[str, list[str]] | None) -> dict[str, list[str]] | None:
        """Rename pairs to canonical entity types in sorted order, as `Chemical Disease`."""
        if legal is None:
            return None
        found: dict[str, list[str]] = {}
        for pair, labels in legal.items():
            words = pair.split()
            if len(words) != 2:
                raise Refused(f"{pair!r}: write a pair as two entity types, Chemical Disease")
            rows = [entity_type_of(word) for word in words]
            for word, row in zip(words, rows, strict=True):
                if row is None:
                    raise Refused(unknown_type(word))
            ours = " ".join(sorted(row.name for row in rows if row))
            if ours in found:
                raise Refused(
                    f"{pair}: duplicate pair {ours}; give all its relation types in one list"
                )
            for label in labels:
                if label in ("", "None") or not label.isprintable():
                    raise Refused(f"{pair}: {label!r} cannot be the name of a relation type")
            found[ours] = labels
        if not any(found.values()):
            raise Refused("no relation type; write {Chemical Disease: [CID]}")
        return found

    @property
    def left_out(self) -> set[str]:
        """The labels in the files that are dropped."""
        return {label for label, ours in self.label_map.items() if ours is None}

    def same_pairs_as(self, other: "SchemaConfig") -> bool:
        """Whether both define the same pairs as related; novelty may differ."""
        same = (self.name, self.legal) == (other.name, other.legal)
        return same and self.left_out == other.left_out


class ExtraCorpusConfig(Section):
    """An additional training corpus; the run is not scored on it."""

    PATHS = ("train",)

    corpus: SchemaConfig
    train: str = Field(description="file or folder of annotated documents")


class CorpusConfig(Section):
    """The annotated documents of a fine-tuning run."""

    PATHS = ("train", "dev")

    corpus: SchemaConfig = SchemaConfig(name="biored")
    train: str = Field(description="file or folder of annotated documents")
    dev: str = Field(description="file or folder of annotated documents to score the run on")
    extra_corpora: list[ExtraCorpusConfig] = Field(
        default=[], description="more corpora to train on, as {corpus: bc5cdr, train: FILE}"
    )
    passes_per_micro_batch: int = Field(
        default=4, gt=0, description="documents, or candidate pairs if pairs.encoding is pairwise"
    )
    micro_batches: int = Field(
        default=4, gt=0, description="micro-batches per step, over all ranks"
    )
    max_document_tokens: int = Field(
        default=512, gt=2, description="longer documents are split into windows of this length"
    )


class FinetuneConfig(RunConfig):
    """A fine-tuning run: annotated documents and an encoder → relation model."""

    data: CorpusConfig
    pairs: PairConfig = PairConfig()

    @model_validator(mode="before")
    @classmethod
    def _of_this_kind(cls, values: Any) -> Any:
        refuse_other_kind(values, "train", "shards", "pretrain")
        return values

    @model_validator(mode="after")
    def _is_not_compiled(self) -> "FinetuneConfig":
        if self.encoder.compile:
            raise Refused(
                "encoder.compile is for pretraining: in fine-tuning each micro-batch has another "
                "length; remove it"
            )
        return self

    @model_validator(mode="after")
    def _each_corpus_finds_by_its_own_types(self) -> "FinetuneConfig":
        """A novelty head cannot learn from corpora with different notions of a related pair: BioRED
        relates a drug to the diseases it treats, BC5CDR only to those it causes."""
        scored = self.data.corpus
        others = [
            one.corpus.name
            for one in self.data.extra_corpora
            if not one.corpus.same_pairs_as(scored)
        ]
        if others and self.pairs.novelty_head_detects:
            raise Refused(
                f"pairs.detection_head: one novelty head cannot learn which pairs are related from "
                f"both {others[0]} and {scored.name}, which differ in their name, legal pairs or "
                "dropped labels; set detection_head=relation"
            )
        return self
