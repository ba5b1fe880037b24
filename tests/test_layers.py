"""Imports go down only, and each big library has few doors."""

import ast
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the bottom up, a line or more for each floor.
FLOORS = """
- document tally entity_types relation_schema config world faults durable workers gather
  interrupts stored_bytes wording
- corpora demo_corpus demo_wording scoring verdicts sentences meeting marked_text
- data_hash word_table cached_tokenizer tokenization learn_tokenizer encode shards entities
  examples masking batch stream loader masked_documents markers passes pair_batch pair_labels pairs
  document_loader
  training_corpora scored_pairs calibration inputs held_out joining parts selection
  concept_counts work_folder shard_order shard_tokenizer shard_tables shard_statistics
  shard_check shard_documents concept_hash mention_columns mention_row co_occurrence bootstrap
  breakdown precision_recall relation_rows
- strip_attention encoder chunked_softmax concept_table table_rows sharded_table heads
  identifier_scores pretraining_model encoder_folder probe hidden_mentions shared_context
  relation_model
  relation_folder decode entity_attention relation_losses
- training_state step_guard curves flops compiled_ops engine engine_deepspeed engines
  checkpoint_manifest checkpoints
  job tracking report model_card
  dataset_card study_plot evaluation evaluation_plots evaluation_section
- train
- sharding shard_tasks pretrain dev_set finetune probe_shards predict predict_record predict_slices
  register lineage study study_table
- launch demo
"""
FLOOR = {room: n for n, rooms in enumerate(FLOORS.split("- ")[1:]) for room in rooms.split()}
DOORS = {
    "deepspeed": {"engine_deepspeed"},
    "ray": {"launch"},
    "mlflow": {"tracking"},
    "webdataset": {"shards"},
    "transformers": {"tokenization", "learn_tokenizer", "encoder", "tracking"},
    "lxml": {"corpora"},
    "numba": {"gather", "word_table", "corpora"},
    "typer": {"launch"},
    "jinja2": {"report"},
    "matplotlib": {"dataset_card", "curves", "study_plot", "evaluation_plots"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (
                [f"embre.{alias.name}" for alias in node.names]
                if node.module == "embre"
                else [node.module]
            )


def rooms() -> list[tuple[str, Path]]:
    package = ROOT / "embre"
    return [
        (path.relative_to(package).with_suffix("").parts[0], path)
        for path in sorted(package.rglob("*.py"))
        if path != package / "__init__.py"
    ]


@pytest.mark.parametrize(("room", "path"), rooms(), ids=lambda value: getattr(value, "name", value))
def test_imports_go_down_and_through_doors(room: str, path: Path) -> None:
    assert room in FLOOR, f"{room}: give it a floor in tests/test_layers.py and docs/DESIGN.md"
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "embre" and rest:
            other = rest.split(".")[0]
            if other == "__version__":
                continue
            assert FLOOR[other] <= FLOOR[room], f"{path.name} reaches up to {name}"
        if top in DOORS:
            assert room in DOORS[top], f"{path.name} imports {top}; its door is {DOORS[top]}"


def test_the_table_of_the_design_has_every_room_on_its_floor() -> None:
    lines = (ROOT / "docs" / "DESIGN.md").read_text().splitlines()
    table = lines[lines.index("| floor | module | what |") + 2 :]
    found, floor = {}, 0
    for line in takewhile(lambda line: line.startswith("|"), table):
        _, name, modules, *_ = line.split("|")
        floor = int(name.split()[0]) if name.strip() else floor
        found |= {room.strip("/"): floor for room in re.findall(r"`([a-z_/]+)`", modules)}
    assert found == FLOOR


def test_the_library_knows_no_machine() -> None:
    cluster = {"cluster", *(path.stem for path in (ROOT / "cluster").glob("*.py"))}
    for _, path in rooms():
        reached = cluster & {name.split(".")[0] for name in imports(path)}
        assert not reached, f"{path.name} imports {reached}; cluster/ uses embre, never the reverse"


PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
SAFE = {"yaml.SafeLoader", "yaml.CSafeLoader"}
UNSAFE = {
    *(f"yaml.{name}Loader" for name in ("", "C", "Full", "CFull", "Unsafe", "CUnsafe")),
    *(f"yaml.{name}_load{many}" for name in ("full", "unsafe") for many in ("", "_all")),
}


def unpickling(path: Path) -> Iterator[str]:
    """Where a file of code could make objects, or run code, out of what it reads."""
    yield from (f"imports {name}" for name in imports(path) if name.split(".")[0] in PICKLES)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in UNSAFE:
            yield f"{node.lineno}: {ast.unparse(node)}"
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if (
            given.get("weights_only", "True" if function != "torch.load" else "") != "True"
            or given.get("allow_pickle", "False") != "False"
            or given.get("trust_remote_code", "False") != "False"
            or (function in ("yaml.load", "yaml.load_all") and given.get("Loader") not in SAFE)
            or function.endswith(".load_checkpoint")  # DeepSpeed's own are pickles
        ):
            yield f"{node.lineno}: {ast.unparse(node)}"


def scripts() -> list[Path]:
    folders = (ROOT / name for name in ("embre", "tools", "cluster"))
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


@pytest.mark.parametrize("path", scripts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path: Path) -> None:
    assert not list(unpickling(path))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "model.read(path, weights_only=given)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(folder, trust_remote_code=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=Mine)",
        "yaml.unsafe_load(text)",
        "class Mine(yaml.FullLoader): ...",
        "self.engine.load_checkpoint(folder)",
    ],
)
def test_a_line_that_would_unpickle_is_found(tmp_path: Path, line: str) -> None:
    fine = "torch.load(path, weights_only=True)\nnp.load(path, allow_pickle=False)\nnp.load(path)\n"
    fine += "yaml.safe_load(text)\nyaml.load(text, Loader=yaml.SafeLoader)\njson.load(file)\n"
    (tmp_path / "code.py").write_text(fine)
    assert not list(unpickling(tmp_path / "code.py"))
    (tmp_path / "code.py").write_text(fine + line)
    assert len(list(unpickling(tmp_path / "code.py"))) == 1
