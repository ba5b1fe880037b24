"""Write `requirements.image.txt`: the packages of the container image by version and SHA-256.

    pip install uv && python tools/lock_image.py

Versions are those of constraints.txt. The SHA-256 is that of the file which pip installs in the
image: the wheel for CPython 3.11 on Linux x86-64, or the source distribution if there is none.
"""

import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from embre.cli.options import run_script

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "requirements.image.txt"
EXTRAS = ("s3", "gs")
PYTHON, PLATFORM = (3, 11), "x86_64-manylinux_2_28"
HEADER = """\
# The packages of the container image, by version and SHA-256 of the file that pip takes there.
# Made by tools/lock_image.py out of pyproject.toml and constraints.txt; not to be edited.
"""


def main() -> None:
    """Write requirements.image.txt."""
    if not shutil.which("uv"):
        raise SystemExit("uv is not installed, which resolves for another platform: pip install uv")
    tags = tags_of_image()
    lines = [line_of(package, tags) for package in resolved()]
    OUT.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    print(f"{OUT.name}: {len(lines)} packages")


def resolved() -> list[dict[str, Any]]:
    """The packages of the image with all their files, as in uv's lock file."""
    with tempfile.TemporaryDirectory() as folder:
        # With the project's build backend, so that nothing is downloaded unchecked.
        backend = Path(folder) / "build.in"
        backend.write_text("".join(f"{name}\n" for name in build_requirements()))
        lock = Path(folder) / "pylock.toml"
        command = ["uv", "pip", "compile", "pyproject.toml", str(backend), "--quiet"]
        command += [part for extra in EXTRAS for part in ("--extra", extra)]
        command += ["--constraint", "constraints.txt", "--output-file", str(lock)]
        command += ["--python-version", ".".join(map(str, PYTHON)), "--python-platform", PLATFORM]
        subprocess.run(command, cwd=ROOT, check=True)
        return tomllib.loads(lock.read_text())["packages"]


def build_requirements() -> list[str]:
    """The build requirements in pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]


def tags_of_image() -> dict[Tag, int]:
    """The tags of wheels that can be installed in the image, with their rank, the best first."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]
    platforms += [f"manylinux{name}_x86_64" for name in ("2014", "2010", "1")] + ["linux_x86_64"]
    tags = [*cpython_tags(PYTHON, platforms=platforms)]
    tags += compatible_tags(PYTHON, f"cp{PYTHON[0]}{PYTHON[1]}", platforms)
    return {tag: number for number, tag in enumerate(tags)}


def line_of(package: dict[str, Any], tags: dict[Tag, int]) -> str:
    """`name==version --hash=sha256:…` of the best wheel, else of the source distribution."""
    fitting = []
    for wheel in package.get("wheels", []):
        ranks = [tags[tag] for tag in parse_wheel_filename(name_of(wheel))[3] if tag in tags]
        if ranks:
            fitting.append((min(ranks), wheel["hashes"]["sha256"]))
    sha256 = min(fitting)[1] if fitting else package["sdist"]["hashes"]["sha256"]
    return f"{package['name']}=={package['version']} --hash=sha256:{sha256}"


def name_of(file: dict[str, Any]) -> str:
    """The file name of a wheel in a lock file."""
    return file.get("name") or file["url"].rpartition("/")[2]


if __name__ == "__main__":
    run_script(main)
