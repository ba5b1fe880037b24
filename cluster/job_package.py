"""What of the project goes to the cluster with a job: one zip, the same bytes for the same files.

    files_to_send(root)  ──▶ paths of code and configs ──write_package──▶ zip

Ray keeps packages in the memory of the head node and refuses large ones after an upload of minutes,
so what is no code stays behind and the size is looked at first.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embre.refused import Refused

# At the top of the project: what a job runs, and nothing that only happens to lie there.
SENT = (
    *("embre", "tools", "cluster", "configs"),
    *("pyproject.toml", "constraints.txt", "README.md", "LICENSE"),
)
LEFT_SUFFIXES = {
    *(".arrow", ".bin", ".db", ".gz", ".log", ".npy", ".parquet", ".pt", ".pth", ".pyc"),
    *(".safetensors", ".tar", ".tgz", ".whl", ".xz", ".zip", ".zst"),
    *(".key", ".p12", ".pem", ".pfx"),  # keys of people, never of a job
}
MAX_PACKAGE_MIB = 100  # Ray's own limit is 512, and code has some MB
FIRST_ZIP_YEAR = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Package:
    """A zip that was written, and what is in it: (name in the zip, bytes)."""

    path: Path
    files: tuple[tuple[str, int], ...]

    @property
    def num_bytes(self) -> int:
        return sum(size for _, size in self.files)


def files_to_send(root: Path) -> Iterator[Path]:
    """Code and configs of a project. Left out in them: whatever starts with a dot, links, and the
    kinds of files above."""
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
    """Zip the project and the config of the run; also the config's name in there.

    Raises Refused, with the largest files, for more than MAX_PACKAGE_MIB.
    """
    files = {path.relative_to(root).as_posix(): path for path in files_to_send(root)}
    config = config.resolve()
    name = next((name for name, path in files.items() if path.resolve() == config), None)
    if name is None:  # a config from elsewhere goes along
        name = f"submitted/{config.name}"
        files[name] = config
    sizes = tuple((name, path.stat().st_size) for name, path in sorted(files.items()))
    package = Package(out, sizes)
    if package.num_bytes > MAX_PACKAGE_MIB << 20:
        largest = sorted(sizes, key=lambda file: -file[1])[:5]
        names = ", ".join(f"{name} ({size / 2**20:.0f} MiB)" for name, size in largest)
        raise Refused(
            f"{root}: {package.num_bytes / 2**20:.0f} MiB would be sent, more than "
            f"{MAX_PACKAGE_MIB}; the largest files are {names}. Move data out of the project, to "
            "the storage that all nodes share"
        )
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for sent, _ in sizes:
            # A fixed time: Ray names a package by its bytes and uploads it once.
            info = zipfile.ZipInfo(sent, FIRST_ZIP_YEAR)
            archive.writestr(info, files[sent].read_bytes(), zipfile.ZIP_DEFLATED)
    return package, name
