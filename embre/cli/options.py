"""What several commands check about their options."""

from pathlib import Path

import typer


def local_path(name: str) -> Path:
    """Parse the path of an output; raises BadParameter for a URL, which would become a folder."""
    if "://" in name:
        raise typer.BadParameter(
            f"{name!r} is a URL: write to a local path, then copy it, for example with "
            "`aws s3 sync`, `gcloud storage rsync` or `azcopy sync`"
        )
    return Path(name)
