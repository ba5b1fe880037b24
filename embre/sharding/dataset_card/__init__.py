"""The card of a shard set: a README.md in the format of the Hugging Face hub, plots in `card/`.

It depends only on the manifest, the concept table and the statistics, so equal shard sets have
equal cards, byte for byte.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embre.config import EntitiesConfig
from embre.entity_types import TYPE_INDEX
from embre.sharding.dataset_card.plots import (
    BERT_TOKENS,
    plot_concepts,
    plot_lengths,
    plot_mentions,
)
from embre.shards.entities import CONCEPTS, coverage, type_numbers, vocabulary_of
from embre.shards.shard_set import Manifest
from embre.shards.statistics import ShardStatistics, write_statistics
from embre.shards.tables import (
    MENTION_COLUMNS,
    SPLIT_COLUMNS,
    mention_rows,
    share,
    split_rows,
)

CARD = "README.md"
PLOTS = "card"
CONCEPTS_NAMED = 4

HEAD = """---
pretty_name: PubTator shards {short_digest}
license: unknown  # fill in: the texts have licences of their own
language:
- en
task_categories:
- fill-mask
tags:
- biology
- medical
- pubtator
- named-entities
- webdataset
size_categories:
- {size}
configs:
- config_name: default
  data_files:
{data_files}
---

# PubTator shards {short_digest}

{documents:,} documents with {mentions:,} mentions of genes, diseases, chemicals, variants, species
and cell lines, cut into {tokens:,} word pieces: what entity-masking pretraining with embre streams.
{size_mb:,.1f} MB in {shards}.
"""

LOADING = """## How to load it

With plain webdataset, which does not check the manifest (`FOLDER` is the folder of this card):

```python
import webdataset as wds

for block in wds.WebDataset("FOLDER/{first}", shardshuffle=False).decode():
    names = block["meta.json"]["documents"]                   # up to {block_documents} documents
    first = block["docs.npy"][:, 0].searchsorted(range(len(names)))
    starts = [*block["docs.npy"][first, 1], len(block["tokens.npy"])]
    for name, start, end in zip(names, starts, starts[1:]):
        tokens = block["tokens.npy"][start:end]               # no [CLS], no [SEP]
        spans = [row for row in block["mentions.npy"] if start <= row["start"] < end]
```

`mentions.npy` has a row for each mention and concept: `start` and `end` (tokens of the block),
`type` ({types}) and `concept`, the
`hash` of a row in `concepts.parquet`, 0 without an identifier.

With embre, which checks the size and SHA-256 of a shard before it decodes anything:

```python
from embre.shards.shard_set import ShardSet

shard_set = ShardSet.open("FOLDER")  # or s3://…, gs://…, https://…
for shard in shard_set.shards("{split}"):
    for block in shard_set.load(shard):
        print(len(block.doc_ids), len(block.tokens), len(block.mentions))
```

To pretrain on it, `data: {{shards: FOLDER}}` in a config of `embre pretrain`. To look at documents,
or to verify every shard: `python tools/inspect_shards.py FOLDER --documents 3` and `--verify`.
"""

LIMITS = """## Limitations

- The shards contain the texts: token ids can be decoded to words (lower-cased if the tokenizer
  lower-cases). The licences of the texts apply.
- PubTator's mentions are found by programs: some mentions and identifiers are wrong or missing.
- A mention covers whole word pieces; if it ends within one, it includes the whole piece.
- Not included: relations, character offsets, reference lists and raw tables.
- {held_out}
"""


def write_card(folder: Path, manifest: Manifest, statistics: ShardStatistics) -> None:
    """Write README.md, its plots and the statistics into the folder of a shard set.

    Requires the concept table in the folder, but not the manifest. `statistics` count all shards.
    """
    table = pq.read_table(folder / CONCEPTS)
    (folder / PLOTS).mkdir(exist_ok=True)
    plot_lengths(folder / PLOTS / "lengths.png", statistics)
    plot_mentions(folder / PLOTS / "mentions.png", statistics)
    types, counts = type_numbers(table), table["count"].to_numpy()
    falling = {name: counts[types == number] for name, number in TYPE_INDEX.items()}
    plot_concepts(folder / PLOTS / "concepts.png", falling)
    parts = (head(manifest), contents(manifest, statistics, table), origin(manifest))
    loading = LOADING.format(
        first=manifest.shards[0].name,
        split=manifest.shards[0].split,
        block_documents=manifest.settings.get("block_documents", "some"),
        types=", ".join(f"{number} {name}" for name, number in TYPE_INDEX.items()),
    )
    text = "\n".join([*parts, loading, LIMITS.format(held_out=held_out(manifest))])
    (folder / CARD).write_text(text, encoding="utf-8")
    write_statistics(folder, manifest, statistics)


def head(manifest: Manifest) -> str:
    """The front matter and a summary in one sentence."""
    total = manifest.total()
    splits = dict.fromkeys(shard.split for shard in manifest.shards)
    return HEAD.format(
        short_digest=manifest.digest[:12],
        size=size_category(total.documents),
        data_files="\n".join(f"  - split: {s}\n    path: {s}-*.tar" for s in splits),
        documents=total.documents,
        mentions=sum(total.mentions.values()),
        tokens=total.tokens,
        size_mb=total.bytes / 1e6,
        shards=total.name,
    )


def contents(manifest: Manifest, statistics: ShardStatistics, table: pa.Table) -> str:
    """The section on splits, lengths, mentions and concepts."""
    total = manifest.total()
    long = statistics.documents_from(BERT_TOKENS)
    mean = total.tokens / max(total.documents, 1)
    lines = ["## What is in it", ""]
    lines += table_of(SPLIT_COLUMNS, split_rows(manifest))
    lines += [
        "",
        f"A document has {mean:,.0f} tokens on average; {share(long, statistics.documents)} have "
        f"{BERT_TOKENS} or more.",
        "",
        f"![documents by length]({PLOTS}/lengths.png)",
        "",
        "### Mentions",
        "",
    ]
    lines += table_of(MENTION_COLUMNS, mention_rows(statistics))
    lines += ["", f"![mentions by type]({PLOTS}/mentions.png)", "", "### Concepts", ""]
    lines += table_of(
        ["type", "concepts", "mentioned once", "most frequent"], concepts(table), words=(0, 3)
    )
    limits = EntitiesConfig()
    lines += [
        "",
        f"![mentions of a concept by its rank]({PLOTS}/concepts.png)",
        "",
        "A run chooses its entity vocabulary from these concepts, by type if need be. With "
        f"`min_count: {limits.min_count}` and `max_per_type: {limits.max_per_type}` for all types, "
        "the defaults, it covers this share of mentions (a mention of two concepts counts twice):",
        "",
    ]
    lines += table_of(
        ["type", "in the vocabulary", "of those with an identifier", "of all"],
        covered(table, statistics, limits),
    )
    return "\n".join([*lines, ""])


def origin(manifest: Manifest) -> str:
    """The section on sources and settings, and on what was left out."""
    lines = ["## How it was made", "", "With `tools/shard_pubtator.py` from:", ""]
    sources = (
        (
            str(source["name"]),
            f"{source['bytes']:,}" if "bytes" in source else "",
            f"`{source['sha256']}`" if "sha256" in source else "",
        )
        for source in manifest.sources
    )
    lines += table_of(["source", "bytes", "SHA-256"], sources, words=(0, 2))
    settings = [(f"`{name}`", str(value)) for name, value in manifest.settings.items()]
    settings += [
        ("tokenizer", f"{manifest.vocabulary:,} word pieces, fingerprint `{manifest.tokenizer}`"),
        ("token digest", f"`{manifest.token_digest}`"),
        ("shard-set digest", f"`{manifest.digest}`"),
    ]
    lines += ["", *table_of(["setting", "value"], settings, words=(0, 1)), ""]
    lines += [f"{manifest.documents_read:,} documents were read.", ""]
    if manifest.held_out:
        lines += ["Held out, by list:", ""]
        rows = [(name, f"{count:,}") for name, count in manifest.held_out.items()]
        lines += [*table_of(["list", "documents"], rows), ""]
    for what, counts in (("Dropped", manifest.dropped), ("Repaired", manifest.repaired)):
        if counts:
            lines += [f"{what}, by reason (explained in `docs/FORMATS.md` of embre):", ""]
            falling = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            rows = [(f"`{reason}`", f"{count:,}") for reason, count in falling]
            lines += [*table_of(["reason", "count"], rows), ""]
    return "\n".join(lines)


def held_out(manifest: Manifest) -> str:
    """A warning about evaluation documents that may be in the set."""
    if not any(manifest.held_out.values()):
        return (
            "Nothing was held out: the set may contain documents on which a model is evaluated, "
            "which would inflate its scores."
        )
    return (
        "The set may contain documents of evaluation sets other than those held out above, which "
        "would inflate a model's scores on them."
    )


def concepts(table: pa.Table) -> Iterator[tuple[str, ...]]:
    """Yield by type: number of concepts, share mentioned once, names of the most frequent."""
    types = type_numbers(table)
    for name, number in TYPE_INDEX.items():
        own = table.filter(pa.array(types == number))
        once = int(np.sum(own["count"].to_numpy() == 1))
        frequent = own["name"].slice(0, CONCEPTS_NAMED).to_pylist()
        yield name, f"{own.num_rows:,}", share(once, own.num_rows), ", ".join(frequent)


def covered(
    table: pa.Table, statistics: ShardStatistics, limits: EntitiesConfig
) -> Iterator[tuple[str, ...]]:
    """Yield by type: concepts in the default vocabulary, their share of normalised and all rows."""
    entities = vocabulary_of(table, limits.min_count, limits.max_per_type)
    for name, found in coverage(table, entities, statistics.rows).items():
        of_normalised = share(found.covered, found.normalised)
        yield name, f"{found.concepts:,}", of_normalised, share(found.covered, found.rows or 0)


def table_of(
    columns: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[int] = (0,)
) -> list[str]:
    """Lines of a Markdown table; columns are right-aligned, except those in `words`."""
    rule = ["---" if number in words else "--:" for number in range(len(columns))]
    cells = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return [f"| {' | '.join(row)} |" for row in (columns, rule, *cells)]


def size_category(documents: int) -> str:
    """The size category of the Hugging Face hub, such as `10K<n<100K`."""
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B"]
    number = sum(documents >= 10**power for power in range(3, 10))
    if number == 0:
        return "n<1K"
    if number == len(bounds):
        return f"n>{bounds[-1]}"
    return f"{bounds[number - 1]}<n<{bounds[number]}"
