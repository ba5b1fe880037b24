"""Imports go down only, and each big library is imported in few places."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import takewhile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parents[1]
# From the bottom up: the files and folders directly in `embre/`.
LAYERS = (
    "document tally entity_types relation_schema wording config world workers interrupts watchdog"
    " faults refused atomic_files end_to_end object_store data_hash provenance drawing loader",
    "corpora tokenization held_out",
    "shards masking stream",
    "model probe relations",
    "evaluation engines checkpoints tracking job model_card",
    "train",
    "sharding pretrain validation_set dev_set finetune prediction register study",
    "launch demo cli",
)
LAYER_OF = {top: n for n, names in enumerate(LAYERS) for top in names.split()}
# Modules that may import a library; of a folder, all in it.
IMPORTED_BY = {
    "deepspeed": ("engines.deepspeed_engine",),
    "ray": ("launch", "cli.doctor"),
    "mlflow": ("tracking",),
    "webdataset": ("shards.shard_set",),
    "transformers": ("tokenization", "model.backbone", "tracking.encoder_pyfunc"),
    "lxml": ("corpora",),
    "numba": ("corpora", "tokenization.word_table", "tokenization.words"),
    "typer": ("cli",),
    "jinja2": ("evaluation.report",),
    "matplotlib": (
        "drawing",
        "evaluation.plots",
        "sharding.dataset_card.plots",
        "tracking.curves",
    ),
}


def imports(path: Path) -> Iterator[str]:
    """What a file imports; of ours with the name that is taken, which may be a module's."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}:{node.lineno}: import by the whole name"
            ours = node.module.split(".")[0] == "embre"
            taken = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from taken if ours else [node.module]


def modules() -> dict[str, Path]:
    """Every file of the package by its name below `embre`; the package itself is ''."""
    package = ROOT / "embre"
    paths = sorted(path for path in package.rglob("*.py") if path.name != "__main__.py")
    found = {".".join(path.relative_to(package).with_suffix("").parts): path for path in paths}
    return {name.removesuffix("__init__").rstrip("."): path for name, path in found.items()}


MODULES = modules()


def own_imports(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports: of `from embre.a import b` a.b, or else a."""
    for name in imports(path):
        first, _, rest = name.partition(".")
        if first == "embre" and rest not in MODULES:
            rest, _, taken = rest.rpartition(".")
            assert rest in MODULES, f"{path} imports {name}, and there is no embre.{rest}"
            assert rest or taken == "__version__", f"{path} takes {taken} from embre itself"
        if first == "embre" and rest:
            yield rest


def libraries_below(start: str) -> set[str]:
    """What a module, and all of ours that it imports, import of others."""
    waiting, seen = [start], set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [*own_imports(MODULES[name]), name.rpartition(".")[0]]
    every = {imported.split(".")[0] for name in seen for imported in imports(MODULES[name])}
    return every - {"embre"}


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_go_down_and_libraries_are_imported_in_few_places(name: str) -> None:
    top = name.split(".")[0]
    assert top in LAYER_OF, f"{top}: give it a layer in tests/test_layers.py and docs/DESIGN.md"
    for other in own_imports(MODULES[name]):
        assert LAYER_OF[other.split(".")[0]] <= LAYER_OF[top], f"{name} reaches up to {other}"
    imported = {library.split(".")[0] for library in imports(MODULES[name])}
    for library in imported & set(IMPORTED_BY):
        allowed = any(f"{name}.".startswith(f"{other}.") for other in IMPORTED_BY[library])
        assert allowed, f"{name} imports {library}; only {IMPORTED_BY[library]} may"


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Names that import each other one after the other, and the first again; or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_neither_files_nor_folders_import_each_other_in_a_circle() -> None:
    graph = {name: set(own_imports(path)) - {name} for name, path in MODULES.items()}
    assert circle_in(graph) == []
    tops: dict[str, set[str]] = {}
    for name, others in graph.items():
        top = name.split(".")[0]
        tops.setdefault(top, set()).update({other.split(".")[0] for other in others} - {top})
    assert circle_in(tops) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "without"),
    [
        ("pretrain", {"ray", "numba", "lxml"}),
        ("finetune", {"ray", "numba"}),
        ("prediction.tasks", {"ray", "numba", "deepspeed", "mlflow"}),
        ("cli.app", {"ray", "numba", "torch", "mlflow", "transformers"}),
    ],
)
def test_what_is_slow_to_import_is_imported_where_it_is_wanted(
    start: str, without: set[str]
) -> None:
    found = subprocess.run(
        [sys.executable, "-c", f"import embre.{start}, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not without & set(found.stdout.split())


def test_a_value_error_of_ours_is_one_for_people() -> None:
    paths = [path for top in ("embre", "cluster", "tools") for path in (ROOT / top).rglob("*.py")]
    plain = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and ast.unparse(node.exc.func) == "ValueError"
    ]
    assert len(paths) > 100 and plain == []


def test_no_file_of_the_package_is_empty() -> None:
    # MLflow sends the package with a model, and some stores do not take what has no bytes.
    assert [path for path in (ROOT / "embre").rglob("*.*") if path.stat().st_size == 0] == []


def test_every_file_of_the_package_is_in_a_wheel() -> None:
    builder = WheelBuilder(str(ROOT))
    sent = {Path(file.path) for file in builder.recurse_included_files()}
    there = {path for path in (ROOT / "embre").rglob("*") if path.is_file()}
    assert sent == {path for path in there if "__pycache__" not in path.parts}


def test_what_users_have_beside_the_code_is_in_no_archive_of_it() -> None:
    builder = SdistBuilder(str(ROOT))
    sent = {Path(file.distribution_path).parts[0] for file in builder.recurse_included_files()}
    folders = {"embre", "cluster", "configs", "tools", "tests", "docs"}
    files = {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", ".gitignore"}
    assert folders < sent <= folders | files


def tables_of_the_design() -> Iterator[tuple[str, list[list[str]]]]:
    """Each table by its head, as rows of cells."""
    lines = iter((ROOT / "docs" / "DESIGN.md").read_text().splitlines())
    for line in lines:
        if line.startswith("| "):
            rows = takewhile(lambda line: line.startswith("|"), lines)
            yield line, [row.split("|")[1:-1] for row in rows if not row.startswith("|---")]


def modules_in(cell: str) -> list[str]:
    return re.findall(r"`([a-z0-9_]+)/?`", cell)


def test_the_table_of_the_design_has_every_module_in_its_layer() -> None:
    rows = dict(tables_of_the_design())["| layer | module | what |"]
    found, layer = {}, 0
    for name, modules_cell, _ in rows:
        layer = int(name.split()[0]) if name.strip() else layer
        found |= dict.fromkeys(modules_in(modules_cell), layer)
    assert found == LAYER_OF, "docs/DESIGN.md, section 3, and LAYERS differ"


def test_the_design_has_a_table_of_every_folder_with_every_module() -> None:
    found = {
        f"{folder}.{module}"
        for head, rows in tables_of_the_design()
        for folder in re.findall(r"^\| in `([a-z_]+)/`", head)
        for row in rows
        for module in modules_in(row[0])
    }
    inside = {".".join(name.split(".")[:2]) for name in MODULES if "." in name}
    assert found == inside, "docs/DESIGN.md, section 3, and embre/ differ"


def test_the_library_knows_no_machine() -> None:
    cluster = {"cluster", *(path.stem for path in (ROOT / "cluster").glob("*.py"))}
    for path in MODULES.values():
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
