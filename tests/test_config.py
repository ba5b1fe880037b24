"""Configs: every shipped one loads; a wrong one is refused in one line that says what to do."""

import ast
import copy
import importlib.util
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from embre.config import (
    BackboneConfig,
    ConfigError,
    ExtraCorpusConfig,
    FinetuneConfig,
    MaskingConfig,
    NewEncoder,
    PretrainConfig,
    RunConfig,
    Section,
    StudyConfig,
    TypeLimits,
    check_config,
    differences,
    dump_config,
    explained,
    is_another,
    load_config,
)
from embre.config.deepspeed_section import FILLED_IN, KNOWN, KNOWN_OF_ZERO

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "study": StudyConfig}
SHIPPED = sorted((ROOT / "configs").rglob("*.yaml"))
SMALL = """
name: small
encoder: {path: bert}
train: {steps: 10}
data: {shards: shards}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_opens_with_the_four_answers(path: Path) -> None:
    config = load_config(KINDS[path.parent.name], path)
    assert config.name
    head = path.read_text().split("\nname:")[0]
    for answer in ("# What:", "# Command:", "# Needs:", "# Hours and numbers:"):
        assert answer in head, f"{path.name}: say '{answer}' on top"


@pytest.mark.parametrize(
    "path", [path for path in SHIPPED if path.parent.name != "study"], ids=lambda path: path.stem
)
def test_all_paths_of_a_config_are_known_and_decide_no_numbers(path: Path) -> None:
    config = load_config(KINDS[path.parent.name], path)
    keys = []
    moved = config.with_paths(lambda key, path: keys.append(key) or f"/moved/{path}")
    assert {"storage", "encoder.path"} < set(keys)
    assert moved.fingerprint() == config.fingerprint()
    texts = yaml.safe_load(dump_config(moved))
    assert texts["encoder"]["path"].startswith("/moved/")
    for number, _ in enumerate(texts["data"].get("extra_corpora", [])):
        assert texts["data"]["extra_corpora"][number]["train"].startswith("/moved/")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_an_explained_config_is_the_same_config(path: Path) -> None:
    config = load_config(KINDS[path.parent.name], path)
    text = explained(config)
    assert yaml.safe_load(text) == config.model_dump(mode="json")
    assert "seeds:" in text or "  steps: " in text and "  # optimizer updates\n" in text


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_fits_the_schema_for_editors(path: Path) -> None:
    editor = jsonschema.Draft202012Validator(KINDS[path.parent.name].model_json_schema())
    values = yaml.safe_load(path.read_text())
    assert editor.is_valid(values) and not editor.is_valid(values | {"sede": 1})


def test_a_long_path_is_explained_in_one_line(small: Path) -> None:
    storage = "my runs/" * 30
    config = load_config(PretrainConfig, small, [f"storage={storage}"])
    assert yaml.safe_load(explained(config))["storage"] == storage


def sections(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A section and those within it, also in lists and by name."""
    yield kind
    waiting: list[Any] = [field.annotation for field in kind.model_fields.values()]
    while waiting:
        part = waiting.pop()
        waiting += getattr(part, "__args__", ())
        if isinstance(part, type) and issubclass(part, Section):
            yield from sections(part)


def test_every_key_that_a_user_sets_says_what_it_means() -> None:
    found = {section for kind in KINDS.values() for section in sections(kind)}
    assert {TypeLimits, NewEncoder, ExtraCorpusConfig, BackboneConfig} <= found
    for section in found:
        assert section.__doc__, section
        for name, field in section.model_fields.items():
            of_section = isinstance(field.annotation, type) and issubclass(
                field.annotation, Section
            )
            assert field.description or of_section, f"{section.__name__}.{name}: give a description"


def test_there_are_shipped_configs() -> None:
    assert {path.parent.name for path in SHIPPED} == set(KINDS)


def test_overrides_change_values_and_numbers_in_text_are_numbers(small: Path) -> None:
    config = load_config(PretrainConfig, small, ["optimizer.peak_lr=3e-4", "data.streams=2"])
    assert config.optimizer.peak_lr == 3e-4 and config.data.streams == 2


def test_a_type_may_have_limits_of_its_own(small: Path, tmp_path: Path) -> None:
    config = load_config(PretrainConfig, small, ["entities.per_type.Species.min_count=50"])
    assert config.entities.per_type == {"Species": TypeLimits(min_count=50)}
    assert config.fingerprint() != load_config(PretrainConfig, small).fingerprint()
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(PretrainConfig, tmp_path / "again.yaml") == config


def test_a_dumped_config_is_the_same_config(small: Path, tmp_path: Path) -> None:
    config = load_config(PretrainConfig, small)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(PretrainConfig, tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.stream=4", "data.stream: unknown key; did you mean streams?"),
        ("optimiser.peak_lr=1", "optimiser: unknown key; did you mean optimizer?"),
        ("encoder.new={layer: 3}", "encoder.new.layer: unknown key; did you mean layers?"),
        ("train.steps=many", "train.steps: Input should be a valid integer"),
        ("data.strip_tokens=100", "must be at least max_document_tokens"),
        ("masking.objective=entities", "masking.objective"),
        (
            "entities.per_type.Varient.min_count=3",
            "Varient is not an entity type; did you mean Variant?",
        ),
        ("entities.per_type.SequenceVariant.min_count=3", "did you mean Variant?"),
        ("entities.per_type.xyz.min_count=3", "xyz is not an entity type; known: Gene, Disease"),
        (
            "entities.per_type.Gene.min_cont=3",
            "Gene.min_cont: unknown key; did you mean min_count?",
        ),
        ("entities.per_type.Gene.min_count=0", "entities.per_type.Gene.min_count"),
        ("train.steps", "write overrides as section.key=value"),
        ("name.first=x", "name.first: name is a value, not a section"),
        ("train.steps=[", "train.steps: the value is not valid YAML"),
        (
            "train.steps=!!python/object/apply:os.system [x]",
            "not valid YAML.*tag.*python/object/apply",
        ),
        ("train.steps=2024-13-45", "train.steps: the value is not valid YAML.*month must be"),
        ("train.steps=" + "[" * 5000, "train.steps: the value is not valid YAML.*nested"),
        ("train={steps: 1, steps: 2}", "train: .*duplicate key steps"),
        ("data.extra_corpora=[&a x, *a]", "data.extra_corpora: .*anchors and aliases"),
        ("deepspeed.zero_optimization=1", "deepspeed: .*must be a mapping, as {stage: 1}"),
        ("deepspeed.zero_optimization=", "deepspeed: .*must be a mapping, as {stage: 1}"),
        ("deepspeed.zero_optimisation.stage=3", "zero_optimisation: .*mean zero_optimization?"),
        ("deepspeed.zero_optimization.stge=3", "zero_optimization.stge: .*did you mean stage?"),
        (
            "deepspeed.zero_optimization.compute_grad_norm=false",
            "deepspeed: .*zero_optimization.compute_grad_norm: .*max_grad_norm.*remove the key",
        ),
        (
            "deepspeed.gradient_clipping=1",
            "gradient_clipping: .*set by optimizer.max_grad_norm",
        ),
        ("deepspeed.bf16.enabled=true", "bf16: set by encoder.precision"),
        ("deepspeed.gradient_allreduce_op=sum", "gradient_allreduce_op: set by the engine"),
        ("deepspeed.amp.enabled=true", "amp: set by encoder.precision"),
        ("deepspeed.optimizer={type: Lamb, params: {lr: auto}}", "optimizer: set by"),
        ("deepspeed.optimizer={type: AdamW, params: {lr: 1}}", "optimizer: set by"),
        ("deepspeed.optimizer={type: AdamW}", "optimizer: set by optimizer"),
        ("deepspeed.fp16={}", "fp16: set by encoder.precision"),
        ("deepspeed=[]", "deepspeed: .*a mapping of DeepSpeed's keys, or the path of a JSON file"),
        ("deepspeed=/nowhere/ds.json", "deepspeed: .*/nowhere/ds.json: no such file"),
        ("encoder.new={heads: 3}", "encoder.new: .*hidden .128. must be a multiple of heads .3."),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_remedy(
    small: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as error:
        load_config(PretrainConfig, small, [override])
    assert "\n" not in str(error.value)


# As Hugging Face's trainers take it.
DS_JSON = {
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto", "loss_scale": 0, "hysteresis": 2},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto"}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": "auto"}},
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "offload_optimizer": {"device": "auto"},
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
    },
    "gradient_accumulation_steps": "auto",
    "train_batch_size": "auto",
    "wall_clock_breakdown": False,
}


def test_deepspeed_settings_may_be_a_json_file_with_auto(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(DS_JSON))
    config = load_config(PretrainConfig, small, [f"deepspeed={path}"])
    zero = {"stage": 3, "overlap_comm": True}
    assert config.deepspeed == {"zero_optimization": zero, "wall_clock_breakdown": False}
    assert config.zero_stage == 3
    (tmp_path / "again.yaml").write_text(dump_config(config))
    path.unlink()  # the run keeps the values
    assert load_config(PretrainConfig, tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"zero_optimisation": {}}',
            "zero_optimisation: unknown DeepSpeed key; did you mean zero_opt",
        ),
        ('{"train_batch_size": 8}', "train_batch_size: set by data.streams"),
        ("{stage: 1}", "not a JSON file: .*line 1"),
        ("[1]", "give a mapping"),
    ],
)
def test_a_wrong_json_file_is_named(small: Path, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "ds.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"small.yaml: deepspeed: {path}: {message}"):
        load_config(PretrainConfig, small, [f"deepspeed={path}"])


def test_the_known_keys_are_those_of_the_installed_deepspeed() -> None:
    """As its sources say, for importing it takes seconds."""
    found = importlib.util.find_spec("deepspeed")
    assert found and found.submodule_search_locations
    package = Path(found.submodule_search_locations[0])
    texts = [path.read_text() for path in package.rglob("*.py") if path.parent.name != "ops"]
    quoted = set(re.findall(r"""["'](\w+)["']""", "".join(texts)))
    assert {*KNOWN, *FILLED_IN} <= quoted
    tree = ast.parse((package / "runtime/zero/config.py").read_text())
    (model,) = (n for n in tree.body if getattr(n, "name", "") == "DeepSpeedZeroConfig")
    assert isinstance(model, ast.ClassDef)
    fields = [ast.unparse(node) for node in model.body if isinstance(node, ast.AnnAssign)]
    wanted = [field for field in fields if "'deprecated'" not in field]
    names = [re.search(r"alias='(\w+)'", field) or re.match(r"(\w+)", field) for field in wanted]
    assert {found[1] for found in names if found} == set(KNOWN_OF_ZERO)


CORPUS = """
name: small
encoder: {path: bert}
train: {steps: 10}
data:
  corpus: {name: mine, legal: {"Disease ChemicalEntity": [CID]}, label_map: {x: CID, y: null}}
  train: a
  dev: b
  extra_corpora: [{corpus: bc5cdr, train: c}]
pairs: {detection_head: relation}
"""


OTHER_LEGAL = """pairs.detection_head=novelty
data.extra_corpora=[{corpus: {name: mine, legal: {Gene Gene: [A]}, label_map: {}}, train: c}]"""
ALL_LABELS = """pairs.detection_head=novelty
data.extra_corpora=[{corpus: {name: mine, legal: {Disease ChemicalEntity: [CID]}}, train: c}]"""


def test_a_corpus_is_a_name_or_described(tmp_path: Path) -> None:
    (tmp_path / "fine.yaml").write_text(CORPUS)
    config = load_config(FinetuneConfig, tmp_path / "fine.yaml")
    assert config.data.corpus.legal == {"Chemical Disease": ["CID"]}, "in our words"
    assert config.data.extra_corpora[0].corpus.name == "bc5cdr"
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(FinetuneConfig, tmp_path / "again.yaml") == config
    named = load_config(FinetuneConfig, tmp_path / "fine.yaml", ["data.corpus=bc5cdr"])
    assert named.data.corpus.name == "bc5cdr" and named.data.corpus.legal is None
    more = ["data.corpus=bc5cdr", "pairs.detection_head=novelty"]  # more of the same corpus
    assert load_config(FinetuneConfig, tmp_path / "fine.yaml", more).pairs.novelty_head_detects
    for silver in ("novelty: false", "label_map: {treat: Association}", "novelty: true"):
        extra = f"data.extra_corpora=[{{corpus: {{name: biored, {silver}}}, train: c}}]"
        more = ["data.corpus=biored", extra, "pairs.detection_head=novelty"]  # silver
        assert load_config(FinetuneConfig, tmp_path / "fine.yaml", more).pairs.novelty_head_detects


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.corpus={name: x, legl: {}}", "data.corpus.legl: unknown key; did you mean legal?"),
        (
            "data.extra_corpora=[{corpus: x, trian: c}]",
            "extra_corpora.0.trian: unknown key; did you mean train?",
        ),
        ("data.corpus.legal={Chemcal Disease: [x]}", "Chemcal is not an entity type; did you mean"),
        ("data.corpus.legal={Chemical: [x]}", "write a pair as two entity types"),
        ("data.corpus.legal={Gene Drug: [x], Drug Gene: [y]}", "duplicate pair Chemical Gene"),
        ("data.corpus.legal={Gene Gene: [None]}", "'None' cannot be the name of a relation type"),
        ("data.corpus.legal={Gene Gene: []}", "no relation type; write"),
        ("data.corpus.name=", "data.corpus.name"),
        (
            "pairs.detection_head=novelty",
            "cannot learn which pairs are related from both bc5cdr and mine",
        ),
        (OTHER_LEGAL, "from both mine and mine"),
        (ALL_LABELS, "their name, legal pairs or dropped labels"),
    ],
)
def test_a_corpus_that_is_wrongly_described_is_named(
    tmp_path: Path, override: str, message: str
) -> None:
    (tmp_path / "fine.yaml").write_text(CORPUS)
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as error:
        load_config(FinetuneConfig, tmp_path / "fine.yaml", override.splitlines())
    assert "\n" not in str(error.value)


def test_what_cannot_be_compiled_is_refused(small: Path, tmp_path: Path) -> None:
    compiled = ["encoder.compile=true", "engine=deepspeed", "data.strip_tokens=4096"]
    assert load_config(PretrainConfig, small, compiled).encoder.compile
    large = [*compiled, "data.strip_tokens=16384"]
    assert load_config(PretrainConfig, small, [*large, "launch.use_gpu=true"]).encoder.compile
    with pytest.raises(ConfigError, match="on a CPU is for strips of up to 4,096 tokens"):
        load_config(PretrainConfig, small, large)
    with pytest.raises(ConfigError, match="does not work with .*round_robin_gradients"):
        moving = "deepspeed.zero_optimization.round_robin_gradients=true"
        load_config(PretrainConfig, small, [*compiled, moving])
    with pytest.raises(ConfigError, match="does not work with ZeRO stage 3"):
        stage = "deepspeed.zero_optimization.stage=3"
        load_config(PretrainConfig, small, [*compiled, stage])
    (tmp_path / "fine.yaml").write_text(SMALL.replace("shards: shards", "train: a, dev: b"))
    with pytest.raises(ConfigError, match="encoder.compile is for pretraining"):
        load_config(FinetuneConfig, tmp_path / "fine.yaml", compiled[:2])


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in itertools.pairwise("abcdefghijkl")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "a config must be a mapping"),
        ("", "the file is empty"),
        ("a: [", r"x\.yaml:1: not a YAML file: expected the node content"),
        ("a: 1\nx: !!python/object/apply:os.system ['true']", r"x\.yaml:2: not a YAML file"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", r"x\.yaml:5: .*: duplicate key c"),
        ("a: 1\n'a': 1\n", r"x\.yaml:2: .*: duplicate key a"),
        ("a: 1\n<<: {b: 1}\n", r"x\.yaml:2: .*: keys must be plain names; << and"),
        ("a: 1\n? [b, c]\n: 1\n", r"x\.yaml:2: .*: keys must be plain names"),
        ("a: 1\nb: [*c]\n", r"x\.yaml:2: .*anchors and aliases .* repeat the value"),
        ("a: {x: 1}\nb: &b {y: 1}\nc: {<<: *b}\n", r"x\.yaml:2: .*anchors and aliases"),
        (BOMB, r"x\.yaml:1: .*anchors and aliases"),
        ("a: 2024-13-45", r"x\.yaml: not a YAML file: month must be"),
        ("a: \0", r"x\.yaml: not a YAML file: unacceptable character"),
    ],
)
def test_what_is_no_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as refused:
        load_config(PretrainConfig, tmp_path / "x.yaml")
    assert "\n" not in str(refused.value)


def test_bytes_that_are_no_text_are_refused_by_the_name_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match=r"x\.yaml: not a YAML file"):
        load_config(PretrainConfig, tmp_path / "x.yaml")


def test_what_cannot_be_read_is_not_shown(small: Path) -> None:
    for override in ("storage=[https://me:hunter22@h", "name.first=https://me:hunter22@h"):
        with pytest.raises(ConfigError) as refused:
            load_config(PretrainConfig, small, [override])
        assert "hunter22" not in str(refused.value)
    small.write_text(SMALL + "storage: [https://me:hunter22@h\n")
    with pytest.raises(ConfigError) as refused:
        load_config(PretrainConfig, small)
    assert "hunter22" not in str(refused.value)


def test_an_unknown_key_of_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(SMALL + "optimizer:\n  warmup: 2\noptimiser: {}\n")
    with pytest.raises(ConfigError, match=r"warmup \(line 7\): unknown.*optimiser \(line 8\): "):
        load_config(PretrainConfig, tmp_path / "x.yaml")
    (tmp_path / "y.yaml").write_text(CORPUS.replace("train: c", "train: c, trian: c"))
    with pytest.raises(ConfigError, match=r"data\.extra_corpora\.0\.trian \(line 9\): unknown key"):
        load_config(FinetuneConfig, tmp_path / "y.yaml")


@pytest.mark.parametrize(
    "kind, path, why",
    [
        (
            FinetuneConfig,
            "pretrain/base.yaml",
            "`embre pretrain`: it has data.shards and no data.t",
        ),
        (
            PretrainConfig,
            "finetune/biored_base.yaml",
            "`embre finetune`: it has data.train and no ",
        ),
    ],
)
def test_a_config_of_the_other_kind_is_told_in_one_sentence(
    kind: type[RunConfig], path: str, why: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(kind, ROOT / "configs" / path)
    assert why in str(refused.value) and "unknown key" not in str(refused.value)


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config"):
        load_config(PretrainConfig, tmp_path / "none.yaml")


WHOLE = {
    PretrainConfig: """
name: whole
encoder: {path: bert, new: {}}
train: {steps: 10}
data: {shards: shards, strip_tokens: 4096}
entities: {per_type: {Gene: {min_count: 3, max_per_type: 9}}}
deepspeed: {zero_optimization: {stage: 2}}
""",
    FinetuneConfig: """
name: whole
encoder: {path: bert, new: {}}
train: {steps: 10}
data:
  corpus: {name: mine, legal: {Gene Gene: [CID]}, label_map: {x: CID}, novelty: true}
  train: a
  dev: b
  extra_corpora: [{corpus: {name: mine, legal: {Gene Gene: [CID]}, novelty: false}, train: c}]
pairs: {detection_head: relation}
deepspeed: {zero_optimization: {stage: 2}}
""",
}
# Where and how a run is carried out, and what it is known by otherwise.
NO_NUMBERS = """
name storage launch.* tracking.* encoder.path encoder.activation_checkpointing
data.shards data.train data.dev data.extra_corpora.0.train
data.loader_workers data.validation_strips data.on_bad_shard
train.save_every_steps train.keep_checkpoints train.log_every_steps train.validate_every_steps
""".split()
# What a run can go on with others of, where it is asked to.
MAY_CHANGE = "train.steps optimizer.* losses.*".split()


def leaves(values: Any, place: tuple = ()) -> Iterator[tuple]:
    """Where the values of a config stand that are no sections."""
    inner = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in inner:
        whole = isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict))
        if whole and value:
            yield from leaves(value, (*place, key))
        else:
            yield (*place, key)


def changed_at(kind: type[RunConfig], values: dict, place: tuple) -> RunConfig | None:
    """The config with another value in one place, of those that may stand there, if any."""
    words = re.findall(r"'enum': \[([^]]*)\]", str(kind.model_json_schema()))
    given: Any = values
    for key in place:
        given = given[key]
    words = re.findall(r"'([^']*)'", " ".join(words))
    tried = [True, False, 0.5, 3, 7, 1 << 15, "x", *words, ["x"], {"x": "y"}]
    for other in tried:
        changed = copy.deepcopy(values)
        section: Any = changed
        for key in place[:-1]:
            section = section[key]
        section[place[-1]] = other
        with suppress(ConfigError):
            config = check_config(kind, changed, "test")
            if config.model_dump(mode="json") != values and other != given:
                return config
    return None


@pytest.mark.parametrize("kind", WHOLE, ids=["pretrain", "finetune"])
def test_the_fingerprint_is_of_all_that_decides_the_numbers_and_cannot_change(
    kind: type[RunConfig], tmp_path: Path
) -> None:
    (tmp_path / "whole.yaml").write_text(WHOLE[kind])
    config = load_config(kind, tmp_path / "whole.yaml")
    values = config.model_dump(mode="json")
    names = {".".join(map(str, place)): place for place in leaves(values)}
    assert len(names) > 50
    (tmp_path / "run.yaml").write_text(dump_config(config))
    for name, place in names.items():
        other = changed_at(kind, values, place)
        if other is None:
            assert (kind, name) == (FinetuneConfig, "encoder.compile"), "what else is fixed?"
            continue
        no_number, may = (
            any(fnmatch(name, pattern) for pattern in patterns)
            for patterns in (NO_NUMBERS, MAY_CHANGE)
        )
        same = other.fingerprint() == config.fingerprint()
        assert same == (no_number or may), name
        assert is_another(other, tmp_path / "run.yaml") != no_number, name
        if may:
            assert list(differences(other, tmp_path / "run.yaml")) == [name]


def test_a_key_that_is_added_later_strands_no_run_and_a_default_that_changes_is_seen(
    small: Path, tmp_path: Path
) -> None:
    class LaterMasking(MaskingConfig):
        new: int = 3
        token_rate: float = 0.4

    class Added(PretrainConfig):
        more: int = 3

    class Later(PretrainConfig):
        masking: LaterMasking = LaterMasking()

    config = load_config(PretrainConfig, small)
    (tmp_path / "run.yaml").write_text(dump_config(config))
    added = load_config(Added, small)
    assert added.fingerprint() == config.fingerprint()
    assert not is_another(added, tmp_path / "run.yaml")
    later = load_config(Later, small)
    assert is_another(later, tmp_path / "run.yaml")
    rates = config.masking.token_rate, 0.4
    assert differences(later, tmp_path / "run.yaml") == {"masking.token_rate": rates}


def test_every_value_that_differs_is_named_with_both(small: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(dump_config(load_config(PretrainConfig, small)))
    given = ["train.steps=11", "deepspeed={zero_optimization: {stage: 2}}", "seed=1", "name=other"]
    assert differences(load_config(PretrainConfig, small, given), tmp_path / "run.yaml") == {
        "deepspeed.zero_optimization": (None, {"stage": 2}),
        "seed": (13, 1),
        "train.steps": (10, 11),
    }
    with pytest.raises(ConfigError, match="no such config"):
        differences(load_config(PretrainConfig, small), tmp_path / "none.yaml")
