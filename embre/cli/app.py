"""The `embre` command; how it ends is said in `errors`."""

import json
import os
from typing import Annotated, Literal

import typer

from embre import __version__
from embre.cli.console import console
from embre.cli.model_commands import evaluate, predict, probe, register, report
from embre.cli.options import APP
from embre.cli.run_commands import demo, doctor, finetune, pretrain, study
from embre.launch.errors import exit_on_error


def version():
    """Print the version of embre."""
    console.print(__version__)


def schema(
    kind: Annotated[
        Literal["pretrain", "finetune", "study"], typer.Argument(help="Kind of config.")
    ],
):
    """Print the JSON schema of a config, by which editors complete and check its keys."""
    from embre.config import FinetuneConfig, PretrainConfig, StudyConfig

    kinds = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "study": StudyConfig}
    console.print(json.dumps(kinds[kind].model_json_schema(), indent=1), markup=False)


app = typer.Typer(
    name="embre",
    help="Pretrain by masking entities, fine-tune for relations and novelty, predict.",
    no_args_is_help=True,
    **APP,
)
for command in (pretrain, finetune, study, evaluate, predict, probe, register, report):
    app.command()(command)
for command in (doctor, demo, schema, version):
    app.command()(command)


def main() -> None:
    """The entry point."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with exit_on_error():
        app()
