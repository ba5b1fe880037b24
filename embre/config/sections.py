"""Config sections shared by pretraining and fine-tuning."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from embre.refused import Refused


class Section(BaseModel):
    """A frozen section of a config; unknown keys are refused.

    `PATHS` are the keys whose value is a file or folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    PATHS: ClassVar[tuple[str, ...]] = ()

    def with_paths(self, change: Callable[[str, str], str], within: str = "") -> Self:
        """Return a copy with each path replaced by `change(key, path)`.

        Keys are full, as `data.extra_corpora.0.train`.
        """
        changed: dict[str, Any] = {}
        for name, value in self:
            key = f"{within}{name}"
            if name in self.PATHS:
                changed[name] = change(key, value)
            elif isinstance(value, Section):
                changed[name] = value.with_paths(change, f"{key}.")
            elif isinstance(value, list):
                changed[name] = [
                    one.with_paths(change, f"{key}.{number}.") if isinstance(one, Section) else one
                    for number, one in enumerate(value)
                ]
        return self.model_copy(update=changed)


class NewEncoder(Section):
    """The shape of a BERT that starts from random weights."""

    layers: int = Field(default=2, gt=0, description="transformer layers")
    hidden: int = Field(default=128, gt=0, description="width; a multiple of heads")
    heads: int = Field(default=2, gt=0, description="attention heads per layer")
    feed_forward: int = Field(
        default=512, gt=0, description="hidden width of the feed-forward block"
    )
    max_positions: int = Field(default=512, gt=0, description="maximum input length in tokens")

    @model_validator(mode="after")
    def _heads_share(self) -> "NewEncoder":
        if self.hidden % self.heads:
            raise Refused(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        return self


class EncoderConfig(Section):
    """The backbone: a Hugging Face folder, or a new one with the tokenizer of a folder."""

    PATHS = ("path",)

    path: str = Field(description="Hugging Face folder of a BERT-type checkpoint and its tokenizer")
    new: NewEncoder | None = Field(
        default=None, description="start from random weights of this shape"
    )
    dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="dropout of embeddings and layers; attention weights have none",
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="precision of the computation; weights stay in fp32"
    )
    compile: bool = Field(
        default=False,
        description="torch.compile the forward pass; pretraining only, on a CPU small strips only",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="store only each layer's input: less memory, a third more computation",
    )


class OptimizerConfig(Section):
    """AdamW with linear warm-up and linear decay to `final_lr_share` of the peak."""

    peak_lr: float = Field(default=1e-4, gt=0, description="learning rate after warm-up")
    warmup_steps: int = Field(default=100, ge=0, description="steps of linear warm-up")
    final_lr_share: float = Field(
        default=0.0, ge=0, le=1, description="final learning rate as a fraction of peak_lr"
    )
    encoder_lr_ratio: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="learning rate of the encoder as a fraction of that of new heads; a trained "
        "encoder forgets less at a lower one",
    )
    encoder_frozen_steps: int = Field(
        default=0,
        ge=0,
        description="steps at the start in which only the heads learn; then the encoder's learning "
        "rate has a warm-up of its own",
    )
    weight_decay: float = Field(default=0.01, ge=0, description="weight decay, of matrices only")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(default=0.98, ge=0, lt=1, description="decay of the second moment")
    epsilon: float = Field(default=1e-6, gt=0, description="AdamW's epsilon")
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="gradients are clipped to this norm"
    )
    spike_sigmas: float | None = Field(
        default=None,
        gt=0,
        description="skip an update whose loss or gradient norm is more than this many standard "
        "deviations above the mean of the last 128 steps",
    )


class TrainConfig(Section):
    """Length of training, and the intervals of saving, logging and validation."""

    steps: int = Field(gt=0, description="optimizer updates")
    save_every_steps: int = Field(default=500, gt=0, description="steps between checkpoints")
    keep_checkpoints: int = Field(default=2, gt=0, description="newest checkpoints to keep")
    log_every_steps: int = Field(default=10, gt=0, description="steps between log entries")
    validate_every_steps: int = Field(default=500, gt=0, description="steps between validations")


class LaunchConfig(Section):
    """Where and how the ranks run."""

    launcher: Literal["local", "ray"] = Field(
        default="local", description="local: this process or torchrun's; ray: workers of Ray Train"
    )
    workers: int = Field(
        default=1, gt=0, description="number of ranks under Ray; torchrun sets it under local"
    )
    min_workers: int | None = Field(
        default=None,
        gt=0,
        description="under Ray, continue with at least this many when nodes are lost, and grow "
        "back to `workers`",
    )
    resize_every_s: float = Field(
        default=60, gt=0, description="with min_workers, seconds between checks for more workers"
    )
    wait_for_nodes_s: float = Field(
        default=0,
        ge=0,
        description="under Ray, seconds to wait at the start for nodes that an autoscaler adds; "
        "0 refuses a cluster that is too small",
    )
    use_gpu: bool = Field(default=False, description="one GPU per worker, with any launcher")
    max_failures: int = Field(
        default=10,
        ge=0,
        description="under Ray, total restarts from a checkpoint before the command fails",
    )
    step_timeout_s: float = Field(
        default=900,
        gt=0,
        description="end a rank that finishes no micro-batch (of training or validation) and no "
        "save within this time; Ray restarts it",
    )
    cpus_per_worker: float = Field(default=1, gt=0, description="under Ray, CPU cores per worker")

    @property
    def fewest(self) -> int:
        """The minimum number of workers of a run under Ray."""
        return self.min_workers or self.workers

    @property
    def needed(self) -> dict[str, float]:
        """Resources of one worker, by Ray's names."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": 1} if self.use_gpu else {})

    def shortage(self, have: Mapping[str, float]) -> str:
        """Why the resources `have` do not suffice to start a run under Ray; '' if they do."""
        return ", ".join(
            f"{self.fewest} workers need {amount * self.fewest:g} {name}, but there are only "
            f"{have.get(name, 0):g}, enough for {have.get(name, 0) // amount:g}"
            for name, amount in self.needed.items()
            if have.get(name, 0) < amount * self.fewest
        )

    def lacking(self, have: Mapping[str, float]) -> str:
        """The shortage with its remedy; '' if there is none."""
        fewer = "min_workers" if self.min_workers else "workers, or set launch.min_workers"
        shortage = self.shortage(have)
        return f"{shortage}; lower launch.{fewer}" if shortage else ""

    def idle(self, have: Mapping[str, float]) -> str:
        """Message if a run on GPUs leaves at least half of the GPUs in `have` idle, else ''."""
        gpus = have.get("GPU", 0)
        if not self.use_gpu or gpus < 2 * self.workers:
            return ""
        return (
            f"launch.workers={self.workers}, and the cluster has {gpus:g} GPUs; raise it if this "
            "run is to use the others (in pretraining up to data.streams)"
        )


class TrackingConfig(Section):
    """Where MLflow keeps the run. Secrets belong in the environment, never here."""

    uri: str | None = Field(
        default=None, description="default: MLFLOW_TRACKING_URI, else sqlite in storage"
    )
    experiment: str = Field(default="embre", description="MLflow experiment of the run")
    required: bool = Field(
        default=False,
        description="refuse to start without MLflow, and fail at the end if it lacks anything",
    )
