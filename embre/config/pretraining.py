"""A pretraining run: which shards, what is hidden, which concepts are known."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from embre.config.run import RunConfig
from embre.config.sections import Section
from embre.entity_types import ENTITY_TYPES, unknown_type
from embre.refused import Refused


class DataConfig(Section):
    """Which shards a pretraining run streams, and how."""

    PATHS = ("shards",)

    shards: str = Field(description="folder or URL of a shard set")
    streams: int = Field(default=16, gt=0, description="logical readers = micro-batches of a step")
    shuffle_shards: int = Field(
        default=6, gt=0, description="shards that a stream mixes, under half of them in memory"
    )
    strip_tokens: int = Field(default=16384, gt=0, description="tokens of one micro-batch")
    max_document_tokens: int = Field(
        default=512, gt=2, description="longer documents are cut in pieces"
    )
    loader_workers: int = Field(
        default=0, ge=0, description="loader processes per rank; 0: in the rank"
    )
    validation_strips: int = Field(
        default=8, ge=0, description="micro-batches of the validation split"
    )
    on_bad_shard: Literal["fail", "quarantine"] = Field(
        default="fail", description="stop at a damaged shard, or go on without it and say so"
    )

    @model_validator(mode="after")
    def _documents_fit(self) -> "DataConfig":
        if self.strip_tokens < self.max_document_tokens:
            raise Refused(
                f"strip_tokens ({self.strip_tokens}) must hold a document of "
                f"max_document_tokens ({self.max_document_tokens})"
            )
        return self


class MaskingConfig(Section):
    """What is hidden. The paper publishes none of these numbers: they are ours."""

    objective: Literal["entity", "token", "entity_token"] = Field(
        default="entity_token", description="hide whole mentions, tokens as BERT does, or both"
    )
    unit: Literal["concept", "mention"] = Field(
        default="concept",
        description="hide all mentions of a chosen concept or name, or single ones",
    )
    entity_rate: float = Field(
        default=0.2, ge=0, le=1, description="share of concepts or mentions hidden"
    )
    token_rate: float = Field(default=0.15, ge=0, le=1, description="share of other tokens hidden")
    replace_share: float = Field(
        default=0.1, ge=0, le=1, description="of the hidden: another token"
    )
    keep_share: float = Field(
        default=0.1, ge=0, le=1, description="of the hidden: left as they are"
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> "MaskingConfig":
        if self.replace_share + self.keep_share > 1:
            raise Refused("replace_share + keep_share must not exceed 1")
        return self


class LossWeights(Section):
    """What each loss counts in the sum; each is a mean over its targets. The paper has no numbers
    for them: ours."""

    token: float = Field(default=1.0, ge=0, description="of hidden tokens")
    type: float = Field(default=1.0, ge=0, description="of the types of hidden mentions")
    identifier: float = Field(default=1.0, ge=0, description="of their identifiers")


class TypeLimits(Section):
    """Limits of one entity type; what is not given is as for all types."""

    min_count: int | None = Field(default=None, gt=0, description="mentions a concept needs")
    max_per_type: int | None = Field(
        default=None, ge=0, description="most frequent concepts; 0: none of this type"
    )


class EntitiesConfig(Section):
    """Which concepts the entity head knows, and the size of their vectors."""

    min_count: int = Field(default=2, gt=0, description="mentions a concept needs in the shard set")
    max_per_type: int = Field(
        default=1_000_000, gt=0, description="most frequent concepts of each type"
    )
    per_type: dict[str, TypeLimits] = Field(
        default={}, description="other limits by type, as in {Species: {min_count: 50}}"
    )
    dimension: int = Field(default=256, gt=0, description="size of a concept's vector")
    shard_above: int = Field(
        default=500_000, ge=0, description="with more concepts the ranks share the table's rows"
    )
    sample_above: int = Field(
        default=3_000_000, ge=0, description="types with more concepts learn against a sample"
    )
    sample_share: float = Field(
        default=0.3,
        gt=0,
        le=1,
        description="of its concepts, beside those of the micro-batch",
    )

    @field_validator("per_type")
    @classmethod
    def _types_known(cls, per_type: dict[str, TypeLimits]) -> dict[str, TypeLimits]:
        for name in per_type:
            if name not in ENTITY_TYPES:
                raise Refused(unknown_type(name))
        return per_type


class PretrainConfig(RunConfig):
    """A pretraining run: shards → encoder."""

    data: DataConfig
    masking: MaskingConfig = MaskingConfig()
    losses: LossWeights = LossWeights()
    entities: EntitiesConfig = EntitiesConfig()

    @model_validator(mode="after")
    def _can_be_compiled(self) -> "PretrainConfig":
        if self.encoder.compile and self.engine == "deepspeed" and self.zero_stage == 3:
            raise Refused(
                "encoder.compile does not go with ZeRO stage 3, which takes weights away between "
                "layers; set it to false, or deepspeed.zero_optimization.stage to 2 or less"
            )
        return self
