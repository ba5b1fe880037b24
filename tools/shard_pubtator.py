"""PubTator dumps → a shard set that pretraining streams.

    python tools/shard_pubtator.py BioCXML.*.tar.gz --tokenizer pubmedbert/ --out shards/

Inputs: PubTator text, BioC-XML or BioC-JSON; files, folders, patterns, .gz, .tar.gz, or URLs. It
uses all allowed cores or a Ray cluster. However a run was stopped, the same command resumes it.
"""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from embre.cli.options import local_folder, run_script
from embre.faults import arm
from embre.held_out import SHIPPED
from embre.launch.errors import RunFailed, exit_on_error
from embre.launch.workers import make_workers
from embre.refused import Refused
from embre.sharding.damage import MAX_UNREADABLE, damaged
from embre.sharding.shard import ShardSettings, shard
from embre.sharding.tasks import Progress as Step
from embre.shards.shard_set import Manifest
from embre.shards.tables import SPLIT_COLUMNS, split_rows
from embre.tally import Tally
from embre.workers import num_cores

DEFAULTS = ShardSettings()

Inputs = Annotated[
    list[str], typer.Argument(help="Files, folders, patterns, archives or URLs to read.")
]
Out = Annotated[Path, typer.Option(parser=local_folder, help="Folder of the shard set.")]
TokenizerFolder = Annotated[
    Path | None,
    typer.Option(
        help="Hugging Face folder of the backbone to be trained. Without it a tokenizer is learnt "
        "from the documents. It is saved as OUT/tokenizer."
    ),
]
HoldOut = Annotated[
    list[str] | None,
    typer.Option(
        help="Documents to leave out besides those of the shipped lists: a corpus, a file of ids, "
        "or a list made by tools/hold_out_list.py. May be given several times."
    ),
]
ShippedHoldOut = Annotated[
    bool, typer.Option(help=f"Leave out the evaluation documents of {' and '.join(SHIPPED)}.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Address of a Ray cluster to use instead of processes (`auto`: the one of this "
        "machine). All its nodes need embre and access to OUT; this machine reads the inputs."
    ),
]
BlockDocuments = Annotated[int, typer.Option(min=1, help="Documents per block.")]
ShardDocuments = Annotated[
    int,
    typer.Option(min=1, help="Documents per shard; training needs at least one shard per stream."),
]
ValidationShare = Annotated[
    float, typer.Option(min=0, max=1, help="Share of documents kept for validation.")
]
Vocabulary = Annotated[
    int, typer.Option(min=1, help="Vocabulary size to learn if no --tokenizer is given.")
]
AcceptDamaged = Annotated[
    bool,
    typer.Option(
        "--accept-damaged",
        help="Write the set even if an input could not be read to its end, or more than "
        f"{MAX_UNREADABLE:.0%} of its documents could not be read. By default the run stops and "
        "can be resumed.",
    ),
]


@exit_on_error()
def main(
    inputs: Inputs,
    out: Out,
    tokenizer: TokenizerFolder = None,
    hold_out: HoldOut = None,
    shipped_hold_out: ShippedHoldOut = True,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Number of processes on this machine; default: its cores."),
    ] = None,
    ray: RayAddress = None,
    block_documents: BlockDocuments = DEFAULTS.block_documents,
    shard_documents: ShardDocuments = DEFAULTS.shard_documents,
    validation_share: ValidationShare = DEFAULTS.validation_share,
    vocabulary: Vocabulary = DEFAULTS.vocabulary,
    accept_damaged: AcceptDamaged = False,
) -> None:
    """Write a shard set of PubTator documents, or finish one."""
    if ray is not None and processes is not None:
        raise Refused("--processes cannot be combined with --ray, whose cluster decides")
    processes = processes or num_cores()
    settings = ShardSettings(block_documents, shard_documents, validation_share, vocabulary)
    lists = [*(SHIPPED if shipped_hold_out else ()), *(hold_out or [])]
    console = Console(highlight=False, soft_wrap=True)
    _arm_faults()
    with make_workers(processes, "embre.sharding.tasks", ray) as workers, _Bar(console) as bar:
        manifest, tally = shard(
            inputs, out, tokenizer, lists, settings, bar.step, workers, accept_damaged
        )
    show(console, out, manifest, tally)
    if (missing := damaged(manifest.sources)) and not accept_damaged:
        raise RunFailed(
            f"{out}: the set is complete but lacks parts of its inputs: {'; '.join(missing)}. "
            f"Fetch these again, remove {out} and shard again, or accept it with --accept-damaged"
        )


def _arm_faults() -> None:
    if not (fault := os.environ.get("EMBRE_FAULT")):
        return
    markers = os.environ.get("EMBRE_FAULT_FOLDER")
    if not markers:
        raise Refused(
            "EMBRE_FAULT is set: set EMBRE_FAULT_FOLDER too, the folder that records the faults "
            "that have happened"
        )
    arm(fault, Path(markers), 0)


class _Bar:
    """Progress bars of a run: reading, then writing."""

    def __init__(self, console: Console):
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.reading = self.bar.add_task("reading", total=None, text="")
        self.writing = self.bar.add_task("writing", total=None, text="", visible=False)
        self.sum = Step()

    def __enter__(self) -> "_Bar":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def step(self, step: Step) -> None:
        """Add a step and update the bars."""
        self.sum = Step(*(a + b for a, b in zip(self.sum, step, strict=True)))
        done, seconds = self.sum, max(self.bar.tasks[0].elapsed or 0, 0.001)
        self.bar.update(
            self.reading,
            total=done.stored_bytes_in_all,
            completed=done.stored_bytes,
            text=f"{done.documents_read:,} documents, {done.documents_read / seconds:,.0f}/s, "
            f"{done.bytes_read / seconds / 1e6:,.1f} MB/s, {done.dropped_or_repaired:,} dropped or "
            "repaired",
        )
        self.bar.update(
            self.writing,
            total=done.documents_chosen,
            completed=done.documents_written,
            text=f"{done.documents_written:,} of {done.documents_chosen:,} documents",
            visible=done.documents_chosen > 0,
        )


def show(console: Console, out: Path, manifest: Manifest, tally: Tally) -> None:
    """Print what was written, held out, repaired and dropped."""
    table = Table(*SPLIT_COLUMNS, title=f"shard set {out}", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in split_rows(manifest):
        table.add_row(*row)
    console.print(table)
    by_type = manifest.total().mentions
    console.print("mentions: " + ", ".join(f"{name} {n:,}" for name, n in by_type.items()))
    console.print(f"concepts: {manifest.concepts['rows']:,}")
    for name, count in manifest.held_out.items():
        console.print(f"held out: {count:,} documents of {name}")
    for title, lines in (("repaired", tally.lines(repaired=True)), ("dropped", tally.lines())):
        if lines:
            console.print(f"{title}, by reason:")
        for line in lines:
            console.print(line, markup=False, highlight=False)
    console.print(f"token digest {manifest.token_digest}")
    console.print(f"shard-set digest {manifest.digest}")


if __name__ == "__main__":
    run_script(main)
