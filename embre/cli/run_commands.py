"""The commands of runs: pretrain, fine-tune, a study of many, the doctor, the demo."""

import os
from pathlib import Path
from typing import Annotated

import typer

from embre.cli.console import console
from embre.cli.options import (
    Gpus,
    Processes,
    RayAddress,
    local_folder,
    refuse_contradicting_workers,
)

ConfigPath = Annotated[Path, typer.Argument(help="YAML file of the run; see configs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Values that replace those of the file: section.key=value …"),
]
PrintConfig = Annotated[
    bool,
    typer.Option(
        "--print-config", help="Print the resolved config with the meaning of each key, and exit."
    ),
]
AllowChange = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY",
        help="Key whose value a resumed run may change: train.steps (to train longer), one of "
        "optimizer.* or losses.*. May be given several times.",
    ),
]


def pretrain(
    config: ConfigPath,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
    allow_change: AllowChange = None,
):
    """Pretrain an encoder on a shard set. Run the same command again to resume."""
    folder = _job("pretrain", config, overrides, print_config, allow_change)
    if folder:
        console.print(f"encoder: {folder}/encoder", markup=False)
        console.print(f"next: embre register {folder} --name NAME --alias champion", markup=False)


def finetune(
    config: ConfigPath,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
    allow_change: AllowChange = None,
):
    """Fine-tune an encoder for relations and novelty, and score it on held-out documents."""
    folder = _job("finetune", config, overrides, print_config, allow_change)
    if folder:
        from embre.launch.tables import dropped_in_run, dropped_lines, scores_table

        for line in (scores_table(folder), *dropped_lines(dropped_in_run(folder))):
            console.print(line)
        console.print(f"report: {folder}/report.html", markup=False)
        console.print(f"next: embre register {folder} --name NAME --alias champion", markup=False)


def study(
    config: Annotated[Path, typer.Argument(help="YAML file of the study; see configs/study/.")],
    overrides: Overrides = None,
    processes: Processes = 1,
    ray: RayAddress = None,
    gpus: Gpus = 0,
    table: Annotated[
        bool, typer.Option("--table", help="Only write the table of the finished runs.")
    ] = False,
):
    """Carry out the runs of a study that are not finished, and write its table.

    Run the same command again to resume after a stop.
    """
    from embre.cli.studying import carry_out_study
    from embre.config import StudyConfig, load_config
    from embre.launch.workers import make_workers
    from embre.study.table import write_results
    from embre.workers import OneProcess

    refuse_contradicting_workers(processes, ray, gpus)
    wanted = load_config(StudyConfig, config, overrides)
    if table:
        written = write_results(wanted)
    else:
        try:
            with make_workers(processes, "embre.cli.studying", ray, gpus) as workers:
                one_by_one = None if ray else OneProcess()
                written = carry_out_study(wanted, workers, console, one_by_one)
        except KeyboardInterrupt:
            console.print("stopped; runs in progress save; run the same command again to resume")
            raise
    console.print(written.read_text(), markup=False)
    console.print(f"table: {written}", markup=False)


def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file of a run, to check it as well.")
    ] = None,
    overrides: Overrides = None,
):
    """Check this machine and, if given, a run's config, data and storage; problems are listed with
    their remedies."""
    from embre.cli.doctor import examine

    checks = examine(config, overrides)
    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    for check in checks:
        console.print(f"[{colours[check.level]}]{check.level:>7}[/]  {check.subject}: ", end="")
        console.print(check.finding, markup=False)
    if any(check.level == "error" for check in checks):
        raise typer.Exit(1)


def demo(
    out: Annotated[
        Path, typer.Option(parser=local_folder, help="Folder for everything the demo writes.")
    ] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Random seed of corpus and training.")] = 13,
):
    """Run all stages on a made-up corpus: shard, pretrain, fine-tune, register, predict, report.

    Run the same command again to resume after a stop.
    """
    from embre.demo.run import run_demo

    run_demo(out, seed, console)


def _job(
    kind: str,
    path: Path,
    overrides: list[str] | None,
    print_config: bool,
    allow_change: list[str] | None,
) -> Path | None:
    from embre.config import FinetuneConfig, PretrainConfig, RunConfig, explained, load_config

    kinds: dict[str, type[RunConfig]] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}
    config = load_config(kinds[kind], path, overrides)
    if print_config:
        console.print(explained(config), markup=False)
        return None
    from embre.launch.driver import run_job

    folder = run_job(kind, config, console, allow_change or ())
    return folder if os.environ.get("RANK", "0") == "0" else None  # one rank speaks
