"""The config shared by all runs."""

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, field_validator

from embre.config.deepspeed_section import deepspeed_section
from embre.config.sections import (
    EncoderConfig,
    LaunchConfig,
    OptimizerConfig,
    Section,
    TrackingConfig,
    TrainConfig,
)
from embre.refused import Refused

# Settings of where and how a run is executed, not of what it computes.
# Paths are excluded too: the digest of their content counts instead (see `job`).
NOT_IN_FINGERPRINT = {
    "name": True,
    "storage": True,
    "launch": True,
    "tracking": True,
    "encoder": {"path", "activation_checkpointing"},
    "data": {
        **dict.fromkeys(("shards", "train", "dev"), True),
        **dict.fromkeys(("loader_workers", "validation_strips", "on_bad_shard"), True),
        "extra_corpora": {"__all__": {"train"}},
    },
    "train": {"save_every_steps", "keep_checkpoints", "log_every_steps", "validate_every_steps"},
}
# Sections that a resumed run may change, on request.
CHANGEABLE = ("train", "optimizer", "losses")


def refuse_other_kind(values: Any, ours: str, theirs: str, kind: str) -> None:
    """Raise Refused for values with `data.<theirs>` and without `data.<ours>`: they are the config
    of `embre <kind>`, and all that differs would be listed."""
    data = values.get("data") if isinstance(values, dict) else None
    if isinstance(data, dict) and theirs in data and ours not in data:
        raise Refused(
            f"this is a config of `embre {kind}`: it has data.{theirs} and no data.{ours}; "
            "give it to that command, or this command another config"
        )


class RunConfig(Section):
    """The settings of every run."""

    PATHS = ("storage",)

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
        description="name of the run and of its folder in storage",
    )
    seed: int = Field(
        default=13, ge=0, lt=1 << 32, description="seed of weights, dropout, masking and data order"
    )
    storage: str = Field(default="runs", description="folder of all runs; shared by all machines")
    encoder: EncoderConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig
    engine: Literal["torch", "deepspeed"] = Field(
        default="torch", description="plain torch, or DeepSpeed ZeRO"
    )
    deepspeed: dict[str, Any] = Field(
        default={},
        description="DeepSpeed's own keys, or the path of a JSON file with them",
        json_schema_extra={"type": ["object", "string"]},
    )
    launch: LaunchConfig = LaunchConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("deepspeed", mode="before")
    @classmethod
    def _resolved(cls, given: Any) -> dict[str, Any]:
        return deepspeed_section(given)

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage, 1 by default."""
        return self.deepspeed.get("zero_optimization", {}).get("stage", 1)

    def fingerprint(self) -> str:
        """SHA-256 over the settings that determine a run's results and must not change in it.

        Default values are excluded, so that a key added by a later version changes nothing.
        """
        left_out = NOT_IN_FINGERPRINT | dict.fromkeys(CHANGEABLE, True)
        values = self.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def numbers(self) -> dict[str, Any]:
        """All settings that determine a run's results, by `section.key`."""
        values = self.model_dump(mode="json", exclude=NOT_IN_FINGERPRINT)
        sections = {name: value for name, value in values.items() if isinstance(value, dict)}
        inner = {f"{name}.{key}": v for name, found in sections.items() for key, v in found.items()}
        return {name: v for name, v in values.items() if name not in sections} | inner
