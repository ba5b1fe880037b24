"""Inspect a shard set: its content, documents with their mentions, its integrity.

    python tools/inspect_shards.py shards/
    python tools/inspect_shards.py shards/ --documents 3 --tokenizer pubmedbert/
    python tools/inspect_shards.py shards/ --verify

SHARDS is a folder or a URL (s3://, gs://, https://).
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from embre.cli.options import run_script
from embre.config import EntitiesConfig
from embre.entity_types import TYPE_INDEX
from embre.launch.errors import exit_on_error
from embre.object_store import read_bytes
from embre.refused import Refused
from embre.shards.check import check_shards
from embre.shards.documents import (
    COLOURS,
    ConceptNames,
    StoredDocument,
    find_documents,
    join_word_pieces,
    word_pieces,
)
from embre.shards.entities import coverage, read_concepts, type_numbers, vocabulary_of
from embre.shards.shard_set import ShardSet
from embre.shards.statistics import ShardStatistics, statistics_of_set
from embre.shards.tables import (
    MENTION_COLUMNS,
    SPLIT_COLUMNS,
    mention_rows,
    share,
    split_rows,
)
from embre.tokenization.tokenizer import TextTokenizer, load_tokenizer
from embre.wording import printable

DEFAULTS = EntitiesConfig()
TOKENIZER = "tokenizer"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
MAX_TOKENS_SHOWN = 400


@exit_on_error()
def main(
    shards: Annotated[str, typer.Argument(help="Folder or URL of a shard set.")],
    documents: Annotated[
        int, typer.Option(min=0, help="Number of documents to show with their mentions.")
    ] = 0,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", help="Show the document with this id. May be given several times."),
    ] = None,
    top: Annotated[
        int, typer.Option(min=0, help="Number of frequent concepts to show per type.")
    ] = 5,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only verify all digests, counts and mentions.")
    ] = False,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Hugging Face folder of the set's tokenizer, to show text. Default: "
            "SHARDS/tokenizer."
        ),
    ] = None,
    entities_min_count: Annotated[
        int, typer.Option(help="Minimum number of mentions of a concept in the entity vocabulary.")
    ] = DEFAULTS.min_count,
    entities_max_per_type: Annotated[
        int, typer.Option(help="Maximum number of concepts per type in the entity vocabulary.")
    ] = DEFAULTS.max_per_type,
) -> None:
    """Show the content of a shard set, or verify it."""
    if verify and (documents or ids):
        raise Refused("--verify shows no documents; give it without --documents and --id")
    console = Console(highlight=False, soft_wrap=True)
    shard_set = ShardSet.open(shards)
    if verify:
        valid = show_verdict(console, shard_set)
        raise typer.Exit(0 if valid else 1)
    if documents or ids:
        show_documents(console, shard_set, tokenizer, documents, ids or [])
        return
    with shard_bar(console, "reading", shard_set) as advance:
        statistics = statistics_of_set(shard_set, advance)
    show_contents(console, shard_set, statistics)
    show_entities(console, shard_set, statistics, top, entities_min_count, entities_max_per_type)


@contextmanager
def shard_bar(console: Console, what: str, shard_set: ShardSet) -> Iterator[Callable[[], None]]:
    """Show a progress bar over the shards of a set; yield a function that advances it by one."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=len(shard_set.manifest.shards))
        yield lambda: bar.advance(task)


def show_verdict(console: Console, shard_set: ShardSet) -> bool:
    """Verify the set, print the problems by file, and return whether there are none."""
    with shard_bar(console, "verifying", shard_set) as advance:
        problems = check_shards(shard_set, advance)
    total = shard_set.manifest.total()
    if problems:
        console.print(f"not sound: {len(problems)} files of {shard_set.url}", markup=False)
    else:
        mentions = sum(total.mentions.values())
        console.print(
            f"sound: {total.name}, {total.documents:,} documents, {total.tokens:,} tokens and "
            f"{mentions:,} mentions match the manifest"
        )
    for name, reasons in problems.items():
        console.print(f"  {name}: {'; '.join(reasons)}", markup=False)
    return not problems


def show_contents(console: Console, shard_set: ShardSet, statistics: ShardStatistics) -> None:
    """Print splits, mentions, sources, and what was dropped."""
    manifest = shard_set.manifest
    console.print(table_of(f"shard set {shard_set.url}", SPLIT_COLUMNS, split_rows(manifest)))
    console.print(table_of("mentions", MENTION_COLUMNS, mention_rows(statistics)))
    for source in manifest.sources:
        size = f", {int(source['bytes']) / 1e6:,.1f} MB" if "bytes" in source else ""
        console.print(Text(printable(f"source: {source['name']}{size}")))
    for name, count in manifest.held_out.items():
        console.print(Text(printable(f"held out: {count:,} documents of {name}")))
    console.print(f"documents read: {manifest.documents_read:,}")
    for what, counts in (("dropped", manifest.dropped), ("repaired", manifest.repaired)):
        if counts:
            console.print(f"{what}, by reason:")
        for reason, count in sorted(counts.items(), key=lambda item: -item[1]):
            console.print(f"{count:>9,}  {reason}", markup=False)
    settings = ", ".join(f"{name} {value}" for name, value in manifest.settings.items())
    console.print(f"settings: {settings}", markup=False)
    console.print(f"tokenizer {manifest.tokenizer}, {manifest.vocabulary:,} tokens")
    console.print(f"token digest {manifest.token_digest}")
    console.print(f"shard-set digest {manifest.digest}")


def show_entities(
    console: Console,
    shard_set: ShardSet,
    statistics: ShardStatistics,
    top: int,
    min_count: int,
    max_per_type: int,
) -> None:
    """Print the coverage of an entity vocabulary and the most frequent concepts."""
    table = read_concepts(shard_set)
    found = coverage(table, vocabulary_of(table, min_count, max_per_type), statistics.rows)
    types = type_numbers(table)
    known = {name: int(np.sum(types == number)) for name, number in TYPE_INDEX.items()}
    known["all"] = table.num_rows
    rows = [
        (
            name,
            f"{known[name]:,}",
            f"{part.concepts:,}",
            share(part.covered, part.normalised),
            share(part.covered, part.rows or 0),
        )
        for name, part in found.items()
    ]
    title = (
        f"entity vocabulary (min_count {min_count}, max_per_type {max_per_type:,}) and the share "
        "of mentions that it covers"
    )
    columns = ("type", "concepts", "in vocabulary", "of normalised", "of all")
    console.print(table_of(title, columns, rows))
    rows = []
    for number in TYPE_INDEX.values():
        own = table.filter(pa.array(types == number)).slice(0, top).to_pylist()
        rows += [(row["type"], row["identifier"], row["name"], f"{row['count']:,}") for row in own]
    if rows:
        columns = ("type", "identifier", "name", "mentions")
        console.print(table_of("most frequent concepts", columns, rows, words=3))


def show_documents(
    console: Console, shard_set: ShardSet, folder: Path | None, first: int, ids: Sequence[str]
) -> None:
    """Print documents as text, with their mentions in colour.

    Raises Refused if the tokenizer is not the set's, or an id is not in the set.
    """
    tokenizer = tokenizer_of(shard_set, folder)
    names = ConceptNames.of(shard_set)
    legend = Text("mentions: ")
    for name, colour in COLOURS.items():
        legend.append(name, f"bold {colour}").append("  ")
    console.print(legend)
    missing = dict.fromkeys(ids)
    with shard_bar(console, "looking", shard_set) as advance:
        for doc in find_documents(shard_set, first, ids, advance):
            length = None if doc.doc_id in ids else MAX_TOKENS_SHOWN
            place = f"  {doc.shard}, {len(doc.tokens):,} tokens"
            console.print(Text.assemble("\n", (printable(doc.doc_id), "bold"), (place, "dim")))
            for passage in document_text(doc, tokenizer, names, length):
                console.print(passage, soft_wrap=False)
            if length and len(doc.tokens) > length:
                rest = len(doc.tokens) - length
                more = f"… {rest:,} more; --id {printable(doc.doc_id)} shows all"
                console.print(Text(more, "dim"))
            missing.pop(doc.doc_id, None)
    if missing:
        raise Refused(f"{shard_set.url}: no document {', '.join(missing)}; check the ids")


def document_text(
    doc: StoredDocument, tokenizer: TextTokenizer, names: ConceptNames, length: int | None
) -> Iterator[Text]:
    """Yield the passages of a document; each mention is coloured and followed by its concept."""
    styles = [""] * len(doc.tokens)
    labels: dict[int, list[str]] = {}
    rows = sorted(doc.mentions.tolist(), key=lambda row: row[0] - row[1])  # longest first
    for (start, end, number), concepts in groupby(rows, key=lambda row: row[:3]):
        name = list(TYPE_INDEX)[number]
        styles[start:end] = [f"bold {COLOURS[name]}"] * (end - start)
        known = "; ".join(names.label(row[3]) for row in concepts if row[3])
        labels.setdefault(end, []).append(known or name)
    pieces = word_pieces(doc.tokens[:length], tokenizer)
    starts, text = set(doc.passages.tolist()), Text()
    for number, piece in enumerate(join_word_pieces(pieces)):
        if number in starts and text:
            yield text
            text = Text()
        text.append(piece if text else piece.lstrip(), styles[number])
        for label in labels.get(number + 1, []):
            text.append(f"[{label}]", "dim")
    yield text


def tokenizer_of(shard_set: ShardSet, folder: Path | None) -> TextTokenizer:
    """The tokenizer in `folder`, by default the one beside the shards.

    Raises Refused if there is none, or if it is not the one of the manifest.
    """
    with tempfile.TemporaryDirectory() as own:
        if folder is None:
            fetch_tokenizer(shard_set, Path(own))
        tokenizer = load_tokenizer(folder or own)
    if tokenizer.fingerprint != shard_set.manifest.tokenizer:
        raise Refused(
            f"{folder or TOKENIZER}: its tokenizer {tokenizer.fingerprint} is not that of the set, "
            f"{shard_set.manifest.tokenizer}; give the tokenizer with which the set was made"
        )
    return tokenizer


def fetch_tokenizer(shard_set: ShardSet, folder: Path) -> None:
    """Copy the tokenizer of a set from its folder or URL."""
    for name in TOKENIZER_FILES:
        try:
            (folder / name).write_bytes(read_bytes(f"{shard_set.url}/{TOKENIZER}/{name}"))
        except FileNotFoundError as error:
            raise Refused(
                f"{shard_set.url}: the set has no tokenizer; give its folder with --tokenizer "
                f"(fingerprint {shard_set.manifest.tokenizer})"
            ) from error


def table_of(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1
) -> Table:
    """A table; all columns but the first `words` are right-aligned."""
    table = Table(title=Text(title), title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < words else "right")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


if __name__ == "__main__":
    run_script(main)
