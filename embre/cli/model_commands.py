"""The commands of models: predict, score and show what came out, ask an encoder, register."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from embre.cli.console import console
from embre.cli.options import Gpus, Processes, RayAddress, local_file, local_folder
from embre.refused import Refused

TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow tracking URI; default: MLFLOW_TRACKING_URI or runs/mlflow.db."),
]
EveryPair = Annotated[
    bool,
    typer.Option(
        "--every-pair",
        help="Also score the entity types that BioRED does not annotate (for other corpora).",
    ),
]
CountedBy = Annotated[
    Path | None,
    typer.Option(help="Config of the fine-tuning run: score as that run does."),
]
Device = Annotated[str, typer.Option(help="cpu, or cuda for a GPU.")]


def evaluate(
    gold: Annotated[Path, typer.Option(help="File or folder of annotated documents.")],
    pred: Annotated[Path, typer.Option(help="File or folder of predicted documents.")],
    train: Annotated[
        Path | None,
        typer.Option(help="Training documents, to score seen and unseen concepts apart in OUT."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=local_folder, help="Folder for the metrics, errors, plots and a report."
        ),
    ] = None,
    other: Annotated[
        Path | None, typer.Option(help="Predictions of another system to compare with.")
    ] = None,
    official: Annotated[
        bool,
        typer.Option(
            "--official",
            help="Leave out gold documents that were not predicted, as the official scorer does.",
        ),
    ] = False,
    every_pair: EveryPair = False,
    config: CountedBy = None,
):
    """Score predictions as BioRED's official scorer does: micro precision, recall and F1."""
    from embre.cli.evaluating import run_evaluation

    lines = run_evaluation(
        gold,
        pred,
        train=train,
        out=out,
        other_path=other,
        official=official,
        every_pair=every_pair,
        config=config,
    )
    for line in lines:
        console.print(line)


def predict(
    model: Annotated[
        str, typer.Argument(help="Run folder, its relation_model/, or models:/NAME@ALIAS.")
    ],
    inputs: Annotated[list[str], typer.Argument(help="PubTator or BioC files, folders, archives.")],
    out: Annotated[
        Path, typer.Option(parser=local_folder, help="Folder for the files with relations.")
    ],
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Minimum probability of a relation; default: the model's own thresholds.",
        ),
    ] = None,
    parquet: Annotated[
        bool,
        typer.Option(
            "--parquet", help="Also write Parquet tables of all relations to OUT/relations."
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Predict again and replace what another model or threshold wrote to OUT.",
        ),
    ] = False,
    processes: Processes = 1,
    ray: RayAddress = None,
    gpus: Gpus = 0,
    tracking_uri: TrackingUri = None,
    device: Device = "cpu",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one JSON object.")
    ] = False,
):
    """Write PubTator or BioC files again, with predicted relations, novelty and probabilities.

    Run the same command again to resume after a stop.
    """
    from embre.cli.predicting import run_prediction

    lines = run_prediction(
        model,
        inputs,
        out,
        device=device,
        threshold=threshold,
        parquet=parquet,
        overwrite=overwrite,
        processes=processes,
        ray=ray,
        gpus=gpus,
        tracking_uri=tracking_uri,
        as_json=as_json,
        console=Console(stderr=True, highlight=False, soft_wrap=True) if as_json else console,
    )
    for line in lines:
        console.print(line)


def probe(
    encoder: Annotated[
        str, typer.Argument(help="Run folder, its encoder/, or models:/NAME@ALIAS.")
    ],
    text: Annotated[
        str | None,
        typer.Argument(
            help="Text with hidden mentions: 'Mutations in \\[[BRCA1|Gene]] are frequent.'"
        ),
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(
            help="Shard set: predict mentions of its validation split, and compare with baselines "
            "that only count training documents."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Concepts to show for each hidden mention.")] = 10,
    strips: Annotated[
        int | None,
        typer.Option(min=1, help="With --shards: validation strips to read; default: the run's."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object.")
    ] = False,
    tracking_uri: TrackingUri = None,
    device: Device = "cpu",
):
    """Predict the concepts of mentions that a text, or a validation split, hides.

    \\[[BRCA1|Gene]] hides a mention, \\[[BRCA1]] its type too, \\[[?]] one word piece.
    """
    from embre.cli.probing import run_probe

    lines = run_probe(
        encoder,
        text,
        shards,
        top=top,
        strips=strips,
        as_json=as_json,
        tracking_uri=tracking_uri,
        device=device,
    )
    for line in lines:
        console.print(line)


def register(
    run: Annotated[Path | None, typer.Argument(help="Folder of a finished run.")] = None,
    name: Annotated[str | None, typer.Option(help="Name in the registry.")] = None,
    alias: Annotated[str | None, typer.Option(help="Alias to set, such as champion.")] = None,
    if_better: Annotated[
        str | None,
        typer.Option(help="Register only if this metric, such as all_f1, beats the alias's model."),
    ] = None,
    show: Annotated[
        str | None, typer.Option(help="Show the lineage of a model name or a shard set's digest.")
    ] = None,
    tracking_uri: TrackingUri = None,
):
    """Register a run's encoder or relation model in MLflow, or show what is registered."""
    from embre.cli.registering import run_register, show_lineage

    if show is not None and not (run or name or alias or if_better):
        lines = show_lineage(show, tracking_uri)
    elif show is None and run is not None and name is not None:
        lines = run_register(run, name, alias, if_better, tracking_uri)
    else:
        raise Refused(
            "give RUN and --name NAME to register a model in the store of its run, or --show NAME "
            "alone to look; --tracking-uri names the store if it was moved"
        )
    for line in lines:
        console.print(line, markup=False)


def report(
    pred: Annotated[Path, typer.Option(help="File or folder of predicted documents.")],
    out: Annotated[Path, typer.Option(parser=local_file, help="HTML file to write.")],
    gold: Annotated[Path | None, typer.Option(help="Annotated documents to score with.")] = None,
    every_pair: EveryPair = False,
    config: CountedBy = None,
):
    """Write a self-contained HTML report for a curator."""
    from embre.cli.evaluating import run_report

    for line in run_report(pred, out, gold, config, every_pair):
        console.print(line)
