"""What several commands make of their arguments and options."""

from pathlib import Path

import typer


def folder_within(run: Path, name: str) -> Path:
    """The folder `name` of a run; `run` itself if it has none, as the folder of a model."""
    return run / name if (run / name).is_dir() else run


def local_path(name: str) -> Path:
    """Parse the path of an output; raises BadParameter for a URL, which would become a folder."""
    if "://" in name:
        raise typer.BadParameter(
            f"{name!r} is a URL: write to a local path, then copy it, for example with "
            "`aws s3 sync`, `gcloud storage rsync` or `azcopy sync`"
        )
    return Path(name)


def local_folder(name: str) -> Path:
    """As `local_path`, of a folder; raises BadParameter for a file, before hours of work."""
    path = local_path(name)
    if path.exists() and not path.is_dir():
        raise typer.BadParameter(f"{name!r} is a file: give a folder, which need not exist")
    return path


def local_file(name: str) -> Path:
    """As `local_path`, of a file; raises BadParameter for a folder."""
    path = local_path(name)
    if path.is_dir():
        raise typer.BadParameter(f"{name!r} is a folder: give the name of the file to write")
    return path
