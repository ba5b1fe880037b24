"""The sections that every run has."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from embre.refused import Refused


class Section(BaseModel):
    """A frozen part of a config; unknown keys are refused. `PATHS` are its keys that name a file
    or folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    PATHS: ClassVar[tuple[str, ...]] = ()

    def with_paths(self, change: Callable[[str, str], str], within: str = "") -> Self:
        """With `change(key, path)` in place of each path; a key is `data.extra_corpora.0.train`."""
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
    heads: int = Field(default=2, gt=0, description="attention heads of a layer")
    feed_forward: int = Field(default=512, gt=0, description="width within a layer")
    max_positions: int = Field(default=512, gt=0, description="longest input in tokens")

    @model_validator(mode="after")
    def _heads_share(self) -> "NewEncoder":
        if self.hidden % self.heads:
            raise Refused(f"{self.heads} heads cannot share {self.hidden} numbers: change one")
        return self


class EncoderConfig(Section):
    """The backbone: a Hugging Face folder, or a new one with the tokenizer of a folder."""

    PATHS = ("path",)

    path: str = Field(description="Hugging Face folder of a BERT-type checkpoint and its tokenizer")
    new: NewEncoder | None = Field(
        default=None, description="start from random weights of this shape"
    )
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="of embeddings and layers; none of attention weights"
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="of the arithmetic; weights stay in fp32"
    )
    compile: bool = Field(default=False, description="of pretraining: torch.compile the forward")
    activation_checkpointing: bool = Field(
        default=False,
        description="keep each layer's input alone: less memory, a third more work",
    )


class OptimizerConfig(Section):
    """AdamW with linear warm-up and linear decay to `final_lr_share` of the peak."""

    peak_lr: float = Field(default=1e-4, gt=0, description="learning rate after warm-up")
    warmup_steps: int = Field(default=100, ge=0, description="steps up to peak_lr")
    final_lr_share: float = Field(
        default=0.0, ge=0, le=1, description="of peak_lr, left at the end"
    )
    weight_decay: float = Field(default=0.01, ge=0, description="of matrices alone")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(default=0.98, ge=0, lt=1, description="decay of the second moment")
    epsilon: float = Field(default=1e-6, gt=0, description="AdamW's, added to the divisor")
    max_grad_norm: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    spike_sigmas: float | None = Field(
        default=None,
        gt=0,
        description="leave out an update whose loss or gradient norm is so many standard "
        "deviations above the mean of the 128 steps before",
    )


class TrainConfig(Section):
    """How long, and what happens on the way."""

    steps: int = Field(gt=0, description="optimizer updates")
    save_every_steps: int = Field(default=500, gt=0, description="steps between checkpoints")
    keep_checkpoints: int = Field(default=2, gt=0, description="the newest that stay")
    log_every_steps: int = Field(default=10, gt=0, description="steps between logged ones")
    validate_every_steps: int = Field(default=500, gt=0, description="steps between validations")


class LaunchConfig(Section):
    """Where the ranks run."""

    launcher: Literal["local", "ray"] = Field(
        default="local", description="this process, or torchrun's; or workers of Ray Train"
    )
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
    use_gpu: bool = Field(default=False, description="under Ray, a GPU for each worker")
    max_failures: int = Field(
        default=10,
        ge=0,
        description="under Ray, restarts from a checkpoint, in all, before the command gives up",
    )
    step_timeout_s: float = Field(
        default=900,
        gt=0,
        description="a rank hangs, and is ended, where no micro-batch, be it one of a validation, "
        "and no save of it comes to its end for so long; Ray starts it again",
    )
    cpus_per_worker: float = Field(default=1, gt=0, description="under Ray, cores of a worker")

    @property
    def fewest(self) -> int:
        """Workers with which a run under Ray starts."""
        return self.min_workers or self.workers

    @property
    def needed(self) -> dict[str, float]:
        """What a worker takes under Ray, by Ray's names."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": 1} if self.use_gpu else {})

    def lacking(self, have: Mapping[str, float]) -> str:
        """Message and remedy if the resources `have` cannot hold a run under Ray, else ''."""
        short = [
            f"{self.fewest} workers need {amount * self.fewest:g} {name} and there are "
            f"{have.get(name, 0):g}, enough for {have.get(name, 0) // amount:g}"
            for name, amount in self.needed.items()
            if have.get(name, 0) < amount * self.fewest
        ]
        fewer = "min_workers" if self.min_workers else "workers, or set launch.min_workers"
        return f"{', '.join(short)}; lower launch.{fewer}" if short else ""

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
    """Where MLflow keeps the run. A secret belongs into the environment, never here."""

    uri: str | None = Field(
        default=None, description="default: MLFLOW_TRACKING_URI, else sqlite in storage"
    )
    experiment: str = Field(default="embre", description="of MLflow, that the run belongs to")
    required: bool = Field(
        default=False,
        description="refuse to start without MLflow, and fail at the end where it lacks something",
    )
