"""A study: many runs that differ in one thing at a time, and the table of what came out."""

from pydantic import Field, field_validator, model_validator

from embre.config.places import is_url
from embre.config.sections import Section
from embre.refused import Refused


class BackboneConfig(Section):
    """An encoder to fine-tune: a folder, or what a pretraining run makes."""

    path: str | None = Field(default=None, description="Hugging Face folder, as it is")
    pretrain: str | None = Field(default=None, description="YAML of a pretraining run")
    set: list[str] = Field(default=[], description="section.key=value of that run")

    @model_validator(mode="after")
    def _one_of_both(self) -> "BackboneConfig":
        if (self.path is None) == (self.pretrain is None):
            raise Refused("give either path or pretrain")
        if self.path and self.set:
            raise Refused("set changes a pretraining run; with path there is none")
        if self.path and is_url(self.path):  # the digest of a finished run's backbone is looked at
            raise Refused(
                "path: a URL is no folder; copy what is there to one first (a registered model "
                "with `mlflow artifacts download --artifact-uri models:/… --dst-path FOLDER`), and "
                "give the folder that has its config.json"
            )
        return self


class StudyConfig(Section):
    """Axes and their values; `parts` say which cells of the grid are run, in order, and `compare`
    which of them are held against which."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,49}$", description="the names of its runs begin so"
    )
    storage: str = Field(default="runs", description="the study is a folder in it")
    backbones: dict[str, BackboneConfig] = Field(
        min_length=1, description="by name: {path: FOLDER} or {pretrain: YAML}"
    )
    corpora: dict[str, str] = Field(min_length=1, description="YAML of a fine-tuning run each")
    axes: dict[str, dict[str, list[str]]] = Field(
        default={}, description="by axis and value: section.key=value of fine-tuning"
    )
    set: list[str] = Field(default=[], description="section.key=value of every fine-tuning run")
    set_pretraining: list[str] = Field(default=[], description="and of every pretraining run")
    seeds: list[int] = Field(min_length=1, description="a run of each cell for each")
    parts: list[dict[str, list[str]]] = Field(
        default=[{}], description="values by axis; an axis that is not named has its first value"
    )
    compare: list[dict[str, tuple[str, str]]] = Field(
        default=[],
        description="by axis [this, that]: each cell of this with the one of that, all else alike",
    )

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: list[int]) -> list[int]:
        # Two runs of one seed are one run: in one folder at once, and counted as two.
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            raise Refused(f"{', '.join(map(str, twice))} twice; give each seed once")
        return seeds

    @property
    def values(self) -> dict[str, list[str]]:
        """The values of all axes, corpus and backbone first."""
        axes = {axis: list(values) for axis, values in self.axes.items()}
        return {"corpus": list(self.corpora), "backbone": list(self.backbones), **axes}

    @model_validator(mode="after")
    def _values_known(self) -> "StudyConfig":
        known = self.values
        if len(known) < 2 + len(self.axes):
            raise Refused("axes: corpus and backbone are axes already")
        for axis, values in known.items():
            bad = [value for value in (axis, *values) if not value.replace("_", "").isalnum()]
            if bad or not values:
                raise Refused(f"axes.{axis}: names are letters, digits and _, one at least")
        for key, listed in (("parts", self.parts), ("compare", self.compare)):
            for number, some in enumerate(listed):
                for axis, values in some.items():
                    place = f"{key}.{number}"
                    if axis not in known:
                        raise Refused(f"{place}: no axis {axis}; known: {', '.join(known)}")
                    if unknown := set(values) - set(known[axis]):
                        raise Refused(
                            f"{place}.{axis}: no value {unknown.pop()}; known: "
                            f"{', '.join(known[axis])}"
                        )
        if any("corpus" in some for some in self.compare):
            raise Refused("compare: scores of two corpora have nothing to do with each other")
        return self
