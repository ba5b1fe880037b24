"""What goes to a cluster with a job: all of the code, and nothing else."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from job_package import files_to_send, write_package

ROOT = Path(__file__).resolve().parents[2]


def project(folder: Path) -> Path:
    for name in (
        *("embre/corpora/raw.py", "embre/train.py", "configs/a.yaml", "README.md"),
        *("runs/r/model.safetensors", "shards/0.tar", "corpora/x.PubTator", ".git/HEAD", ".env"),
        *("embre/__pycache__/a.pyc", ".venv/lib/x.py", "id.pem", "notes/.aws/credentials"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "linked.py").symlink_to("/etc/passwd")
    return folder


def test_code_and_configs_go_and_data_and_keys_stay(tmp_path: Path) -> None:
    root = project(tmp_path / "p")
    sent = [path.relative_to(root).as_posix() for path in files_to_send(root)]
    assert sent == ["README.md", "configs/a.yaml", "embre/corpora/raw.py", "embre/train.py"]


def test_the_zip_holds_what_is_listed_and_the_job_imports_embre_from_it(tmp_path: Path) -> None:
    package, name = write_package(ROOT, ROOT / "configs/pretrain/base.yaml", tmp_path / "a.zip")
    with zipfile.ZipFile(package.path) as archive:
        names = archive.namelist()
        assert name in names and names == [sent for sent, _ in package.files]
        assert set(names) == {path.relative_to(ROOT).as_posix() for path in files_to_send(ROOT)}
        for sent, size in package.files:
            text = archive.read(sent)
            assert text == (ROOT / sent).read_bytes() and size == len(text)
        archive.extractall(tmp_path / "job")
    command = [sys.executable, "-c", "import embre; print(embre.__file__)"]  # as `python -m embre`
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = subprocess.check_output(command, cwd=tmp_path / "job", env=environ, text=True)
    assert found.strip() == str(tmp_path / "job/embre/__init__.py")


def test_no_file_of_the_package_embre_stays_behind() -> None:
    code = {p for p in (ROOT / "embre").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert code <= set(files_to_send(ROOT))


def test_a_config_from_elsewhere_goes_along(tmp_path: Path) -> None:
    root, other = project(tmp_path / "p"), tmp_path / "mine.yaml"
    other.write_text("name: x")
    package, name = write_package(root, other, tmp_path / "a.zip")
    assert name == "submitted/mine.yaml"
    assert zipfile.ZipFile(package.path).read(name) == b"name: x"
    _, name = write_package(root, root / "configs/a.yaml", tmp_path / "b.zip")
    assert name == "configs/a.yaml"


def test_the_same_files_are_the_same_bytes(tmp_path: Path) -> None:
    zips = []
    for number in (1, 2):
        root = project(tmp_path / str(number))
        write_package(root, root / "configs/a.yaml", tmp_path / f"{number}.zip")
        zips.append((tmp_path / f"{number}.zip").read_bytes())
    assert zips[0] == zips[1]


def test_too_much_is_refused_with_the_largest_files(tmp_path: Path) -> None:
    root = project(tmp_path / "p")
    with (root / "embre/huge.tsv").open("wb") as file:
        file.truncate(150 << 20)
    with pytest.raises(ValueError, match=r"150 MiB .* embre/huge.tsv \(150 MiB\)"):
        write_package(root, root / "configs/a.yaml", tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
