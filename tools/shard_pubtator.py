"""PubTator dumps → a shard set that pretraining streams.

    python tools/shard_pubtator.py BioCXML.0.tar.gz --tokenizer pubmedbert/ --out shards/

Inputs: PubTator text, BioC-XML or BioC-JSON; files, folders, .gz, .tar.gz, or URLs.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from embre.sharding import ShardSettings, shard
from embre.shards import Manifest
from embre.tally import Tally

DEFAULTS = ShardSettings()


def main(
    inputs: Annotated[list[str], typer.Argument(help="Files, folders, archives or URLs to read.")],
    out: Annotated[Path, typer.Option(help="Folder of the shard set; must not hold one yet.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Hugging Face folder of the backbone to be trained. Without it a vocabulary is "
            "learnt from the documents and kept in OUT/tokenizer."
        ),
    ] = None,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(help="Documents to leave out: a list of ids, or a corpus. Repeatable."),
    ] = None,
    block_documents: Annotated[
        int, typer.Option(help="Documents stored together.")
    ] = DEFAULTS.block_documents,
    shard_documents: Annotated[
        int, typer.Option(help="Documents of a shard; training needs as many shards as streams.")
    ] = DEFAULTS.shard_documents,
    validation_share: Annotated[
        float, typer.Option(help="Share of documents kept for validation.")
    ] = DEFAULTS.validation_share,
    vocabulary: Annotated[
        int, typer.Option(help="Word pieces to learn where no --tokenizer is given.")
    ] = DEFAULTS.vocabulary,
) -> None:
    """Write a shard set of PubTator documents."""
    settings = ShardSettings(block_documents, shard_documents, validation_share, vocabulary)
    console = Console(highlight=False, soft_wrap=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:,.0f} documents"),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("sharding", total=None)
            manifest, tally = shard(
                inputs, out, tokenizer, hold_out or [], settings, lambda n: bar.advance(task, n)
            )
    except (OSError, ValueError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    show(console, out, manifest, tally)


def show(console: Console, out: Path, manifest: Manifest, tally: Tally) -> None:
    """What was written, and what was not."""
    table = Table(title=f"shard set {out}", title_justify="left")
    for column in ("split", "shards", "documents", "tokens", "mentions", "MB"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split in ("train", "validation"):
        total = manifest.total(split)
        shards = sum(entry.split == split for entry in manifest.shards)
        mentions = sum(total.mentions.values())
        numbers = (shards, total.documents, total.tokens, mentions)
        table.add_row(split, *(f"{n:,}" for n in numbers), f"{total.bytes / 1e6:,.1f}")
    console.print(table)
    by_type = manifest.total().mentions
    console.print("mentions: " + ", ".join(f"{name} {n:,}" for name, n in by_type.items()))
    console.print(f"concepts: {manifest.concepts['rows']:,}")
    for name, count in manifest.held_out.items():
        console.print(f"held out: {count:,} documents of {name}")
    if tally.counts:
        console.print("not taken, by reason:")
        for line in tally.lines():
            console.print(line, markup=False, highlight=False)
    console.print(f"token digest {manifest.token_digest}")
    console.print(f"shard-set digest {manifest.digest}")


if __name__ == "__main__":
    typer.run(main)
