"""The models of a run: one YAML file into frozen sections, checked when read."""

from embre.config.finetuning import (
    CorpusConfig,
    ExtraCorpusConfig,
    FinetuneConfig,
    PairConfig,
    SchemaConfig,
)
from embre.config.pretraining import (
    DataConfig,
    EntitiesConfig,
    LossWeights,
    MaskingConfig,
    PretrainConfig,
    TypeLimits,
)
from embre.config.reading import (
    ConfigError,
    check_config,
    differences,
    dump_config,
    explained,
    is_another,
    load_config,
    read_values,
)
from embre.config.run import CHANGEABLE, RunConfig
from embre.config.secret_values import refuse_secrets
from embre.config.sections import (
    EncoderConfig,
    LaunchConfig,
    NewEncoder,
    OptimizerConfig,
    Section,
    TrackingConfig,
    TrainConfig,
)
from embre.config.study import BackboneConfig, StudyConfig

__all__ = [
    "CHANGEABLE",
    "ExtraCorpusConfig",
    "BackboneConfig",
    "ConfigError",
    "CorpusConfig",
    "DataConfig",
    "EncoderConfig",
    "EntitiesConfig",
    "FinetuneConfig",
    "LaunchConfig",
    "LossWeights",
    "MaskingConfig",
    "NewEncoder",
    "OptimizerConfig",
    "PairConfig",
    "PretrainConfig",
    "RunConfig",
    "SchemaConfig",
    "Section",
    "StudyConfig",
    "TrackingConfig",
    "TrainConfig",
    "TypeLimits",
    "check_config",
    "differences",
    "dump_config",
    "explained",
    "is_another",
    "load_config",
    "read_values",
    "refuse_secrets",
]
