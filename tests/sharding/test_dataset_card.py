"""The card of a shard set: read by the hub, true to the set, the same each time it is written."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from embre.drawing import short
from embre.entity_types import TYPE_INDEX
from embre.sharding.dataset_card import CARD, size_category, write_card
from embre.sharding.dataset_card.plots import plot_concepts, plot_lengths, plot_mentions
from embre.sharding.shard import ShardSettings
from embre.shards.entities import CONCEPTS, coverage, vocabulary_of
from embre.shards.shard_set import ShardSet
from embre.shards.statistics import statistics_of, statistics_of_set, stored_statistics
from tests.shard_sets import write_shards

SETTINGS = ShardSettings(block_documents=4, shard_documents=8, validation_share=0.3, vocabulary=600)
PLOTS = ("lengths", "mentions", "concepts")


@pytest.fixture(scope="module")
def carded(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    shard_set = write_shards(tmp_path_factory.mktemp("set"), 30, SETTINGS)
    write_card(Path(shard_set.url), shard_set.manifest, statistics_of_set(shard_set))
    return shard_set


@pytest.fixture(scope="module")
def text(carded: ShardSet) -> str:
    return (Path(carded.url) / CARD).read_text()


def rows_below(text: str, heading: str) -> dict[str, list[str]]:
    """The first table after a line, by the words of its first column."""
    after = text.split(f"\n{heading}\n", 1)[1].split("\n")
    start = next(number for number, line in enumerate(after) if line.startswith("| ---"))
    rows = {}
    for line in after[start + 1 :]:
        if not line.startswith("|"):
            break
        first, *others = [cell.strip() for cell in line.strip("|").split(" | ")]
        rows[first] = others
    return rows


def test_the_front_matter_is_what_the_hub_reads(carded: ShardSet, text: str) -> None:
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "unknown" and front["size_categories"] == ["n<1K"]
    splits = {one["split"]: one["path"] for one in front["configs"][0]["data_files"]}
    assert splits == {"train": "train-*.tar", "validation": "validation-*.tar"}
    for split, pattern in splits.items():
        assert len(list(Path(carded.url).glob(pattern))) == len(carded.shards(split))


def test_the_tables_say_what_is_in_the_set(carded: ShardSet, text: str) -> None:
    total, statistics = carded.manifest.total("train"), statistics_of_set(carded)
    row = rows_below(text, "## What is in it")["train"]
    assert row[:2] == [str(len(carded.shards("train"))), f"{total.documents:,}"]
    genes = rows_below(text, "### Mentions")["Gene"]
    assert genes[0] == f"{statistics.mentions['Gene']:,}"
    assert genes[2] == f"{statistics.normalised['Gene'] / statistics.mentions['Gene']:.1%}"
    table = pq.read_table(Path(carded.url) / CONCEPTS)
    found = coverage(table, vocabulary_of(table, min_count=2), statistics.rows)["all"]
    covered = text.split("the defaults, it covers", 1)[1]
    assert rows_below(covered.replace("\n\n", "\n#\n", 1), "#")["all"] == [
        f"{found.concepts:,}",
        f"{found.of_normalised:.1%}",
        f"{found.of_all:.1%}",
    ]
    for name in (carded.manifest.digest, carded.manifest.tokenizer, "docs.PubTator"):
        assert name in text


def test_every_plot_of_the_card_is_there(carded: ShardSet, text: str) -> None:
    for name in PLOTS:
        assert f"](card/{name}.png)" in text
        assert (Path(carded.url) / "card" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert stored_statistics(carded) == statistics_of_set(carded)


def test_the_same_set_has_the_same_card_wherever_it_lies(carded: ShardSet, tmp_path: Path) -> None:
    shutil.copy(Path(carded.url) / CONCEPTS, tmp_path)
    write_card(tmp_path, carded.manifest, statistics_of_set(carded))
    for name in (CARD, "statistics.json", *(f"card/{plot}.png" for plot in PLOTS)):
        assert (tmp_path / name).read_bytes() == (Path(carded.url) / name).read_bytes(), name


def test_the_code_of_the_card_runs(carded: ShardSet, text: str) -> None:
    plain, ours = (part.split("```")[0] for part in text.split("```python\n")[1:])
    found: dict = {}
    exec(plain.replace("FOLDER", carded.url), found)
    assert found["names"] and len(found["tokens"]) == found["end"] - found["start"]
    exec(ours.replace("FOLDER", carded.url), found)
    assert found["shard_set"] == carded


def test_what_was_held_out_is_said(carded: ShardSet, text: str, tmp_path: Path) -> None:
    assert "Nothing was held out" in text
    shutil.copy(Path(carded.url) / CONCEPTS, tmp_path)
    manifest = msgspec.structs.replace(
        carded.manifest, held_out={"Test.pmids.txt": 7}, dropped={"mention/odd|one": 3}
    )
    write_card(tmp_path, manifest, statistics_of_set(carded))
    other = (tmp_path / CARD).read_text()
    assert "Nothing was held out" not in other
    assert "| Test.pmids.txt | 7 |" in other and "| `mention/odd\\|one` | 3 |" in other


@pytest.mark.parametrize("count", [0, 1])
def test_plots_of_almost_nothing_are_drawn(tmp_path: Path, count: int) -> None:
    plot_lengths(tmp_path / "lengths.png", statistics_of([]))
    plot_mentions(tmp_path / "mentions.png", statistics_of([]))
    falling = dict.fromkeys(TYPE_INDEX, np.full(count, 1))
    plot_concepts(tmp_path / "concepts.png", falling)
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("documents", "expected"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (42_000_000, "10M<n<100M")],
)
def test_sizes_are_in_the_words_of_the_hub(documents: int, expected: str) -> None:
    assert size_category(documents) == expected
    assert size_category(10**9) == "n>1B"


def test_large_numbers_are_short() -> None:
    assert [short(n) for n in (0, 8000, 2.5e6, 1e9)] == ["0", "8,000", "2.5 M", "1 bn"]
