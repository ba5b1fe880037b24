"""The config of a study: a grid of runs, and the table of their results."""

from pydantic import Field, field_validator, model_validator

from embre.config.places import is_url
from embre.config.sections import Section
from embre.refused import Refused


class BackboneConfig(Section):
    """An encoder to fine-tune: a folder, or the result of a pretraining run."""

    path: str | None = Field(default=None, description="Hugging Face folder")
    pretrain: str | None = Field(default=None, description="YAML of a pretraining run")
    set: list[str] = Field(default=[], description="section.key=value overrides of that run")

    @model_validator(mode="after")
    def _one_of_both(self) -> "BackboneConfig":
        if (self.path is None) == (self.pretrain is None):
            raise Refused("give exactly one of path and pretrain")
        if self.path and self.set:
            raise Refused("set overrides a pretraining run and cannot be used with path")
        if self.path and is_url(self.path):  # a finished run is recognised by its backbone's digest
            raise Refused(
                "path: a URL cannot be used here; download it first (a registered model with "
                "`mlflow artifacts download --artifact-uri models:/… --dst-path FOLDER`) and give "
                "the folder that has its config.json"
            )
        return self


class StudyConfig(Section):
    """Axes and their values; `parts` selects the cells of the grid to run, in order, and `compare`
    the pairs of cells to compare."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,49}$", description="prefix of the names of its runs"
    )
    storage: str = Field(default="runs", description="folder that holds the study's folder")
    backbones: dict[str, BackboneConfig] = Field(
        min_length=1, description="{path: FOLDER} or {pretrain: YAML} by name"
    )
    corpora: dict[str, str] = Field(min_length=1, description="YAML of a fine-tuning run, by name")
    axes: dict[str, dict[str, list[str]]] = Field(
        default={}, description="section.key=value overrides of fine-tuning, by axis and value"
    )
    set: list[str] = Field(default=[], description="overrides of every fine-tuning run")
    set_pretraining: list[str] = Field(default=[], description="overrides of every pretraining run")
    seeds: list[int] = Field(min_length=1, description="one run of each cell per seed")
    parts: list[dict[str, list[str]]] = Field(
        default=[{}], description="values by axis; an axis not named has its first value"
    )
    compare: list[dict[str, tuple[str, str]]] = Field(
        default=[],
        description="[this, that] by axis: compare cells that differ only in these values",
    )

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: list[int]) -> list[int]:
        # Two runs of one seed would share a folder and be counted as two.
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            raise Refused(f"{', '.join(map(str, twice))} given twice; give each seed once")
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
            raise Refused("axes: corpus and backbone are built-in axes; rename yours")
        for axis, values in known.items():
            bad = [value for value in (axis, *values) if not value.replace("_", "").isalnum()]
            if bad or not values:
                raise Refused(
                    f"axes.{axis}: needs at least one value; names have only letters, digits and _"
                )
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
            raise Refused("compare: scores of two corpora are not comparable; remove corpus")
        return self
