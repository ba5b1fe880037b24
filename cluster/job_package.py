"""Packs the project's code and configs for a job: one zip, byte-identical for identical files.

    files_to_send(root) ──▶ paths of code and configs ──write_package──▶ zip

Ray keeps packages in the memory of the head node and rejects large ones only after an upload of
minutes. So only code and configs are sent, and the size is checked first.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embre.refused import Refused

# Top-level files and folders that a job needs; nothing else that lies there is sent.
SENT = (
    *("embre", "tools", "cluster", "configs"),
    *("pyproject.toml", "constraints.txt", "README.md", "LICENSE"),
)
# Suffixes of data, weights, archives and private keys.
LEFT_SUFFIXES = {
    *(".arrow", ".bin", ".db", ".gz", ".log", ".npy", ".parquet", ".pt", ".pth", ".pyc"),
    *(".safetensors", ".tar", ".tgz", ".whl", ".xz", ".zip", ".zst"),
    *(".key", ".p12", ".pem", ".pfx"),
}
MAX_PACKAGE_MIB = 100  # Ray's own limit is 512; the code takes a few
FIRST_ZIP_YEAR = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Package:
    """A zip and its contents: (name in the zip, uncompressed bytes)."""

    path: Path
    files: tuple[tuple[str, int], ...]

    @property
    def num_bytes(self) -> int:
        return sum(size for _, size in self.files)


def files_to_send(root: Path) -> Iterator[Path]:
    """Yield the files below SENT, without hidden files, symbolic links, `__pycache__` and
    LEFT_SUFFIXES."""
    for name in sorted(SENT):
        yield from _files(root / name)


def _files(path: Path) -> Iterator[Path]:
    if path.name.startswith(".") or path.name == "__pycache__" or path.is_symlink():
        return
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            yield from _files(inner)
    elif path.is_file() and path.suffix not in LEFT_SUFFIXES:
        yield path


def write_package(root: Path, config: Path, out: Path) -> tuple[Package, str]:
    """Zip the project and a run's config to `out`; returns the package and the config's name in it.

    Raises Refused, naming the largest files, if they are more than MAX_PACKAGE_MIB.
    """
    files = {path.relative_to(root).as_posix(): path for path in files_to_send(root)}
    config = config.resolve()
    name = next((name for name, path in files.items() if path.resolve() == config), None)
    if name is None:  # the config is outside the project
        name = f"submitted/{config.name}"
        files[name] = config
    sizes = tuple((name, path.stat().st_size) for name, path in sorted(files.items()))
    package = Package(out, sizes)
    if package.num_bytes > MAX_PACKAGE_MIB << 20:
        largest = sorted(sizes, key=lambda file: -file[1])[:5]
        names = ", ".join(f"{name} ({size / 2**20:.0f} MiB)" for name, size in largest)
        raise Refused(
            f"{root}: {package.num_bytes / 2**20:.0f} MiB would be sent, at most "
            f"{MAX_PACKAGE_MIB} MiB are allowed; the largest files are {names}. Move data out of "
            "the project, to the storage that all nodes share"
        )
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for sent, _ in sizes:
            # With a fixed time: Ray identifies a package by its bytes and uploads it only once.
            info = zipfile.ZipInfo(sent, FIRST_ZIP_YEAR)
            archive.writestr(info, files[sent].read_bytes(), zipfile.ZIP_DEFLATED)
    return package, name
