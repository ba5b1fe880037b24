"""The commands of runs: pretrain, fine-tune, a study of many, the doctor, the demo."""

import os
from pathlib import Path
from typing import Annotated

import typer

from embre.cli.console import console

ConfigPath = Annotated[Path, typer.Argument(help="YAML file of the run; see configs/.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="section.key=value, as train.steps=200.")
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
        help="Let a resumed run change this key: train.steps, to train longer, "
        "optimizer.peak_lr and the like, losses.token and the like. May be given several times.",
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
    config: ConfigPath,
    overrides: Overrides = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Number of fine-tuning runs at once on this machine.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Address of a Ray cluster, `auto` for the one of this machine: the runs are tasks "
            "of it; all its nodes have embre, and see all paths."
        ),
    ] = None,
    gpus: Annotated[float, typer.Option(min=0, help="With --ray: GPUs per run, as 0.25.")] = 0,
    table: Annotated[
        bool, typer.Option("--table", help="Only write the table of the runs that are done.")
    ] = False,
):
    """Carry out the runs of a study, what is done not again, and write its table."""
    from embre.cli.studying import carry_out_study
    from embre.config import StudyConfig, load_config
    from embre.launch.workers import make_workers
    from embre.study.table import write_results
    from embre.workers import OneProcess

    wanted = load_config(StudyConfig, config, overrides)
    if table:
        written = write_results(wanted)
    else:
        with make_workers(processes, "embre.cli.studying", ray, gpus) as workers:
            one_by_one = None if ray else OneProcess()
            written = carry_out_study(wanted, workers, console, one_by_one)
    console.print(written.read_text(), markup=False)
    console.print(f"table: {written}", markup=False)


def doctor(
    config: Annotated[Path | None, typer.Argument(help="A run's YAML to check as well.")] = None,
    overrides: Overrides = None,
):
    """Check this machine, and a run's config, data and storage; every line with its remedy."""
    from embre.cli.doctor import examine

    checks = examine(config, overrides)
    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    for check in checks:
        console.print(f"[{colours[check.level]}]{check.level:>7}[/]  {check.subject}: ", end="")
        console.print(check.finding, markup=False)
    if any(check.level == "error" for check in checks):
        raise typer.Exit(1)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(help="Random seed of corpus and training.")] = 13,
):
    """The whole job on a made-up corpus: shard, pretrain, fine-tune, register, predict, report."""
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
