"""What several commands make of their arguments and options."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from embre.refused import Refused

APP: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
Processes = Annotated[int, typer.Option(min=1, help="Number of processes on this machine.")]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Address of a Ray cluster to work on instead, `auto` for that of this machine. All "
        "its nodes need embre and must see all inputs and outputs."
    ),
]
Gpus = Annotated[float, typer.Option(min=0, help="With --ray: GPUs per task, such as 0.25.")]


def run_script(main: Callable[..., None]) -> None:
    """Run a script's function on its command line: `typer.run` with the settings of `embre`."""
    app = typer.Typer(**APP)
    app.command()(main)
    app()


def refuse_contradicting_workers(processes: int, ray: str | None, gpus: float) -> None:
    """Raise Refused for options of which one would be ignored."""
    if gpus and ray is None:
        raise Refused("--gpus needs --ray, because it is for tasks of a cluster; leave it out")
    if ray is not None and processes > 1:
        raise Refused("--processes cannot be combined with --ray: the size of the cluster decides")


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
