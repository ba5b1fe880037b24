"""The models of a run: one YAML file into frozen sections, checked when read.

Unknown keys are refused with the nearest known one; `section.key=value` overrides a value.
"""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, Literal, TypeVar, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from embre.entity_types import ENTITY_TYPES, row_of

# What decides where and how a run is carried out, and not what it computes.
# Paths are left out too: the digest of what lies there is what counts (see `job`).
NOT_IN_FINGERPRINT = {
    "name": True,
    "storage": True,
    "launch": True,
    "tracking": True,
    "encoder": {"path", "activation_checkpointing"},
    "data": {"shards", "train", "dev", "loader_workers", "validation_strips", "on_bad_shard"},
    "pairs": {"threshold"},
    "train": {"save_every_steps", "keep_checkpoints", "log_every_steps", "validate_every_steps"},
}


class ConfigError(ValueError):
    """A config that cannot be used; the message names the file, the key and the remedy."""


class Section(BaseModel):
    """A frozen part of a config; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """Which shards a pretraining run streams, and how."""

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
    on_bad_shard: Literal["fail", "set_aside"] = Field(
        default="fail", description="stop at a damaged shard, or go on without it and say so"
    )

    @model_validator(mode="after")
    def _documents_fit(self) -> "DataConfig":
        if self.strip_tokens < self.max_document_tokens:
            raise ValueError(
                f"strip_tokens ({self.strip_tokens}) must hold a document of "
                f"max_document_tokens ({self.max_document_tokens})"
            )
        return self


class MaskingConfig(Section):
    """What is hidden. The paper publishes none of these numbers: they are ours."""

    objective: Literal["entity", "token", "entity_token"] = "entity_token"
    unit: Literal["concept", "mention"] = Field(
        default="concept", description="hide all mentions of a chosen concept, or single mentions"
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
            raise ValueError("replace_share + keep_share must not exceed 1")
        return self


class LossWeights(Section):
    """What each loss counts in the sum; each is a mean over its targets. The paper has no numbers
    for them: ours."""

    token: float = Field(default=1.0, ge=0)
    type: float = Field(default=1.0, ge=0)
    identifier: float = Field(default=1.0, ge=0)


class TypeLimits(Section):
    """Limits of one entity type; what is not given is as for all types."""

    min_count: int | None = Field(default=None, gt=0)
    max_per_type: int | None = Field(default=None, ge=0, description="0: no concept of this type")


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
        default=0.1,
        gt=0,
        le=1,
        description="of its concepts; half the most frequent, half drawn",
    )

    @field_validator("per_type")
    @classmethod
    def _types_known(cls, per_type: dict[str, TypeLimits]) -> dict[str, TypeLimits]:
        for name in per_type:
            if name not in ENTITY_TYPES:
                row = row_of(name)
                near = [row.name] if row else difflib.get_close_matches(name, ENTITY_TYPES, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(ENTITY_TYPES)}"
                raise ValueError(f"{name} is no entity type; {hint}")
        return per_type


class NewEncoder(Section):
    """The shape of a BERT that starts from random weights."""

    layers: int = Field(default=2, gt=0)
    hidden: int = Field(default=128, gt=0)
    heads: int = Field(default=2, gt=0)
    feed_forward: int = Field(default=512, gt=0)
    max_positions: int = Field(default=512, gt=0)


class EncoderConfig(Section):
    """The backbone: a Hugging Face folder, or a new one with the tokenizer of a folder."""

    path: str = Field(description="Hugging Face folder of a BERT-type checkpoint and its tokenizer")
    new: NewEncoder | None = Field(
        default=None, description="start from random weights of this shape"
    )
    dropout: float = Field(default=0.1, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = Field(default=False, description="of pretraining: torch.compile the forward")
    activation_checkpointing: bool = Field(
        default=False,
        description="keep each layer's input alone: less memory, a third more work",
    )


class OptimizerConfig(Section):
    """AdamW with linear warm-up and linear decay to `final_lr_share` of the peak."""

    peak_lr: float = Field(default=1e-4, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    final_lr_share: float = Field(default=0.0, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.98, ge=0, lt=1)
    epsilon: float = Field(default=1e-6, gt=0)
    clip_norm: float = Field(default=1.0, gt=0)


class TrainConfig(Section):
    """How long, and what happens on the way."""

    steps: int = Field(gt=0, description="optimizer updates")
    save_every_steps: int = Field(default=500, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)
    log_every_steps: int = Field(default=10, gt=0)
    validate_every_steps: int = Field(default=500, gt=0)


class LaunchConfig(Section):
    """Where the ranks run."""

    launcher: Literal["local", "ray"] = "local"
    workers: int = Field(
        default=1, gt=0, description="ranks under Ray; torchrun decides under `local`"
    )
    min_workers: int | None = Field(
        default=None,
        gt=0,
        description="under Ray, go on with as few when nodes are lost, and grow back to `workers`",
    )
    resize_every_s: float = Field(
        default=60, gt=0, description="with `min_workers`, how often to look for more workers"
    )
    use_gpu: bool = False
    max_failures: int = Field(
        default=3, ge=0, description="restarts from a checkpoint before giving up"
    )
    cpus_per_worker: float = Field(default=1, gt=0)


class TrackingConfig(Section):
    """Where MLflow keeps the run. A secret belongs into the environment, never here."""

    uri: str | None = Field(
        default=None, description="default: MLFLOW_TRACKING_URI, else sqlite in storage"
    )
    experiment: str = "embre"


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


class RunConfig(Section):
    """What every run has."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    seed: int = Field(default=13, ge=0, lt=1 << 32)
    storage: str = Field(default="runs", description="folder of all runs; shared by all machines")
    encoder: EncoderConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig
    engine: Literal["torch", "deepspeed"] = "torch"
    deepspeed: dict[str, Any] = Field(
        default={}, description="DeepSpeed's own keys; the rest is filled in"
    )
    launch: LaunchConfig = LaunchConfig()
    tracking: TrackingConfig = TrackingConfig()

    def fingerprint(self) -> str:
        """SHA-256 over all that decides the numbers of a run; a resumed run must have the same."""
        values = self.model_dump(mode="json", exclude=NOT_IN_FINGERPRINT)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class PretrainConfig(RunConfig):
    """A pretraining run: shards → encoder."""

    data: DataConfig
    masking: MaskingConfig = MaskingConfig()
    losses: LossWeights = LossWeights()
    entities: EntitiesConfig = EntitiesConfig()

    @model_validator(mode="after")
    def _can_be_compiled(self) -> "PretrainConfig":
        stage = self.deepspeed.get("zero_optimization", {}).get("stage")
        if self.encoder.compile and self.engine == "deepspeed" and stage == 3:
            raise ValueError(
                "encoder.compile does not go with ZeRO stage 3, which takes weights away between "
                "layers; set it to false, or deepspeed.zero_optimization.stage to 2 or less"
            )
        return self


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


Config = TypeVar("Config", bound=RunConfig)


def load_config(kind: type[Config], path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, apply `section.key=value` overrides and check the result.

    Raises ConfigError naming the file, the key and the remedy.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config; shipped ones are in configs/") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not a YAML file: {error}".replace("\n", " ")) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a config is a mapping of sections, this is {type(values).__name__}"
        )
    for override in overrides or []:
        _apply(values, override)
    return check_config(kind, values, str(path))


def check_config(kind: type[Config], values: dict[str, Any], place: str) -> Config:
    """Values as a config; every problem in one ConfigError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(kind, problem) for problem in error.errors())
        raise ConfigError(f"{place}: {problems}") from error


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML: what `--print-config` shows and a run directory keeps."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r}: an override is written section.key=value")
    *path, last = key.split(".")
    for name in path:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{override!r}: {name} is a value, not a section")
    values[last] = yaml.safe_load(text)


def _explain(kind: type[BaseModel], problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "config"
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
    known = _known_keys(kind, problem["loc"][:-1])
    near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"{key}: unknown key; {hint}"


def _known_keys(kind: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    names = iter(path)
    for name in names:
        annotation = kind.model_fields[name].annotation
        if get_origin(annotation) is dict:
            next(names)  # a key of the mapping, not of a section
        options = getattr(annotation, "__args__", (annotation,))
        kind = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(kind.model_fields)
