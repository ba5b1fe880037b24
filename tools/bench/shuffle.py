"""The quality of our shuffle, compared with WebDataset's at equal memory.

    python tools/bench/shuffle.py [--quick]

WebDataset reads shards with the documents in the order of the dump, in a random order of shards,
through `shuffle(5000)`. Ours reads the shards of our sharder, each a sample of the whole dump, and
mixes as many of them as also keep 5,000 documents in memory. An epoch is compared with the order of
the dump, and with the next epoch. In a perfect shuffle the rank correlation is 0, almost no
neighbours remain neighbours, and the median distance of former neighbours is 0.29 epochs. The last
line is one JSON object.
"""

import json
import random
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import chain, product, takewhile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from dump_files import write_text
from made_up_tokenizer import save_made_up_tokenizer
from rich.console import Console
from rich.table import Table
from webdataset.filters import shuffle

from embre.cli.options import run_script
from embre.config import DataConfig, MaskingConfig
from embre.sharding.shard import ShardSettings, shard
from embre.shards.entities import choose_entities
from embre.shards.shard_set import ShardEntry, ShardSet
from embre.stream.order import rounds
from embre.stream.source import StreamSource, StreamState
from embre.tokenization.tokenizer import load_tokenizer

BUFFER, SHARD = 5000, 1250
MIXED = 10  # shards, of which 3.85 (4,800 documents) are in memory at the start of a round
SEEDS = range(10)
NEAR = 10  # documents this close in an epoch often share a step


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="20,000 documents instead of 50,000.")
    ] = False,
) -> None:
    """Measure the shuffles."""
    console = Console(soft_wrap=True, highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        source = build(Path(folder), 20_000 if quick else 50_000)
        shards = source.shard_set.shards("train")
        names = [name for entry in shards for name in ids_of(source, entry)]
        dump = sorted(names, key=int)  # made-up documents are numbered in the order of the dump
        readers = {"ours": partial(ours, source), "webdataset": partial(theirs, dump)}
        measured: dict[str, list[dict[str, float]]] = {}
        for (who, read), seed in product(readers.items(), SEEDS):
            epochs = [list(read(seed, epoch)) for epoch in (0, 1)]
            for what, before, after in (
                ("an epoch after the dump", dump, epochs[0]),
                ("the second epoch after the first", *epochs),
            ):
                measured.setdefault(f"{who}: {what}", []).append(measure(before, after))
    found = {
        name: {key: round(float(np.median([one[key] for one in runs])), 5) for key in runs[0]}
        for name, runs in measured.items()
    }
    table = Table(title=f"{len(dump):,} documents, median of {len(SEEDS)} seeds")
    for column in ("", *next(iter(found.values()))):
        table.add_column(column.replace("_", " "), justify="right" if column else "left")
    for name, values in found.items():
        table.add_row(name, *(f"{value:g}" for value in values.values()))
    console.print(table)
    print(json.dumps(found))


def build(folder: Path, documents: int) -> StreamSource:
    inputs = write_text(folder / "dump", documents, seed=0)
    save_made_up_tokenizer(folder / "tokenizer")
    settings = ShardSettings(shard_documents=SHARD, block_documents=250)
    shard(inputs, folder / "set", folder / "tokenizer", [], settings)
    shard_set = ShardSet.open(folder / "set")
    data = DataConfig(shards=shard_set.url, streams=1, shuffle_shards=MIXED)
    entities = choose_entities(shard_set, min_count=2, max_per_type=1_000_000)
    tokenizer = load_tokenizer(folder / "tokenizer")
    return StreamSource.build(shard_set, data, MaskingConfig(), entities, tokenizer, seed=0)


def ids_of(source: StreamSource, entry: ShardEntry) -> list[str]:
    return [name for block in source.shard_set.load(entry) for name in block.doc_ids]


def ours(source: StreamSource, seed: int, epoch: int) -> Iterable[str]:
    """The documents of an epoch in the order of our stream; long ones by their first piece."""
    found = rounds(replace(source, seed=seed), 0, StreamState(epoch))
    here = takewhile(lambda one: one[1].epoch == epoch, found)
    return dict.fromkeys(name for members, _ in here for name in members.doc_ids)


def theirs(dump: list[str], seed: int, epoch: int) -> Iterable[str]:
    """The documents of an epoch in WebDataset's order, from shards in the order of the dump."""
    rng = random.Random(f"{seed}/{epoch}")
    shards = [dump[at : at + SHARD] for at in range(0, len(dump), SHARD)]
    rng.shuffle(shards)
    return shuffle(BUFFER, initial=BUFFER, rng=rng)(chain(*shards))


def measure(before: list[str], after: list[str]) -> dict[str, float]:
    """Rank correlation of two orders, and the distances of former neighbours."""
    place = {name: at for at, name in enumerate(after)}
    at = np.array([place[name] for name in before])
    assert len(at) == len(after), "every document once"
    apart = np.abs(np.diff(at))
    return {
        "rank_correlation": abs(float(np.corrcoef(at, np.arange(len(at)))[0, 1])),
        "neighbours_surviving": float((apart == 1).mean()),
        "neighbours_near": float((apart <= NEAR).mean()),
        "median_distance": float(np.median(apart)) / len(at),
    }


if __name__ == "__main__":
    run_script(main)
