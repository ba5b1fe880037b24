"""The config of a pretraining run: shards, masking, losses and the concept vocabulary."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from embre.config.run import RunConfig, refuse_other_kind
from embre.config.sections import Section
from embre.entity_types import ENTITY_TYPES, unknown_type
from embre.refused import Refused


class DataConfig(Section):
    """Which shards a pretraining run streams, and how."""

    PATHS = ("shards",)

    shards: str = Field(description="folder or URL of a shard set")
    streams: int = Field(default=16, gt=0, description="logical readers = micro-batches per step")
    shuffle_shards: int = Field(
        default=6, gt=0, description="shards shuffled together per stream; under half are in memory"
    )
    strip_tokens: int = Field(default=16384, gt=0, description="tokens per micro-batch")
    max_document_tokens: int = Field(default=512, gt=2, description="longer documents are split")
    loader_workers: int = Field(
        default=0, ge=0, description="loader processes per rank; 0: load in the rank itself"
    )
    validation_strips: int = Field(
        default=8, ge=0, description="micro-batches of the validation split to use"
    )
    on_bad_shard: Literal["fail", "quarantine"] = Field(
        default="fail", description="at a damaged shard: stop, or skip it and report it"
    )

    @model_validator(mode="after")
    def _documents_fit(self) -> "DataConfig":
        if self.strip_tokens < self.max_document_tokens:
            raise Refused(
                f"strip_tokens ({self.strip_tokens}) must be at least "
                f"max_document_tokens ({self.max_document_tokens})"
            )
        return self


class MaskingConfig(Section):
    """Which tokens are masked. The paper publishes none of these numbers: they are ours."""

    objective: Literal["entity", "token", "entity_token"] = Field(
        default="entity_token", description="mask whole mentions, tokens as BERT does, or both"
    )
    unit: Literal["concept", "mention"] = Field(
        default="concept",
        description="mask all mentions of a chosen concept or name, or single mentions",
    )
    entity_rate: float = Field(
        default=0.2, ge=0, le=1, description="share of concepts or mentions masked"
    )
    token_rate: float = Field(default=0.15, ge=0, le=1, description="share of other tokens masked")
    replace_share: float = Field(
        default=0.1, ge=0, le=1, description="share of masked tokens replaced by random ones"
    )
    keep_share: float = Field(
        default=0.1, ge=0, le=1, description="share of masked tokens left unchanged"
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> "MaskingConfig":
        if self.replace_share + self.keep_share > 1:
            raise Refused("replace_share + keep_share must not exceed 1")
        return self


class LossWeights(Section):
    """Weights of the losses in their sum; each loss is a mean over its targets. The paper gives no
    weights: these are ours."""

    token: float = Field(default=1.0, ge=0, description="weight of the token loss")
    type: float = Field(default=1.0, ge=0, description="weight of the entity type loss")
    identifier: float = Field(default=1.0, ge=0, description="weight of the identifier loss")


class TypeLimits(Section):
    """Limits of one entity type; those not given are the limits of all types."""

    min_count: int | None = Field(default=None, gt=0, description="minimum mentions of a concept")
    max_per_type: int | None = Field(
        default=None, ge=0, description="maximum number of concepts; 0: none of this type"
    )


class EntitiesConfig(Section):
    """The concept vocabulary of the entity head, and the size of its vectors."""

    min_count: int = Field(
        default=2, gt=0, description="minimum mentions of a concept in the shard set"
    )
    max_per_type: int = Field(
        default=1_000_000, gt=0, description="maximum concepts per type; the most frequent are kept"
    )
    per_type: dict[str, TypeLimits] = Field(
        default={}, description="limits by type, as in {Species: {min_count: 50}}"
    )
    dimension: int = Field(default=256, gt=0, description="size of concept vectors")
    shard_above: int = Field(
        default=500_000, ge=0, description="with more concepts, the table is sharded over the ranks"
    )
    sample_above: int = Field(
        default=3_000_000, ge=0, description="types with more concepts use a sampled softmax"
    )
    sample_share: float = Field(
        default=0.3,
        gt=0,
        le=1,
        description="share of a type's concepts sampled, besides those of the micro-batch",
    )

    @field_validator("per_type")
    @classmethod
    def _types_known(cls, per_type: dict[str, TypeLimits]) -> dict[str, TypeLimits]:
        for name in per_type:
            if name not in ENTITY_TYPES:
                raise Refused(unknown_type(name))
        return per_type


# With more, code that is generated for a CPU depends on how many of them are targets.
COMPILED_CPU_TOKENS = 4096


class PretrainConfig(RunConfig):
    """A pretraining run: shards → encoder."""

    data: DataConfig
    masking: MaskingConfig = MaskingConfig()
    losses: LossWeights = LossWeights()
    entities: EntitiesConfig = EntitiesConfig()

    @model_validator(mode="before")
    @classmethod
    def _of_this_kind(cls, values: Any) -> Any:
        refuse_other_kind(values, "shards", "train", "finetune")
        return values

    @model_validator(mode="after")
    def _can_be_compiled(self) -> "PretrainConfig":
        if self.encoder.compile and self.engine == "deepspeed" and self.zero_stage == 3:
            raise Refused(
                "encoder.compile does not work with ZeRO stage 3, which frees weights between "
                "layers; set it to false, or deepspeed.zero_optimization.stage to 2 or less"
            )
        zero = self.deepspeed.get("zero_optimization", {})
        if self.encoder.compile and zero.get("round_robin_gradients"):
            raise Refused(
                "encoder.compile does not work with zero_optimization.round_robin_gradients, which "
                "puts weights where compiled code does not expect them; set one of them to false"
            )
        if (
            self.encoder.compile
            and not self.launch.use_gpu
            and self.data.strip_tokens > COMPILED_CPU_TOKENS
        ):
            raise Refused(
                f"encoder.compile on a CPU is for strips of up to {COMPILED_CPU_TOKENS:,} tokens; "
                "set it to false, or lower data.strip_tokens"
            )
        return self
