"""Concepts are counted in the shards and named after the parts, however both are cut."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embre.corpora.raw import CheckedDocument, RawMention
from embre.document import Concept
from embre.sharding import concept_counts
from embre.sharding.concept_counts import (
    COUNT,
    concept_table,
    count_concepts,
    forms_of,
    write_forms,
)
from embre.shards.concept_hash import concept_hash
from embre.shards.entities import SCHEMA
from embre.shards.mention_columns import MentionColumns
from embre.shards.mention_row import MENTION_ROW

Form = tuple[str, str, str]  # type, identifier, surface
BRAF, MEK = Concept("Gene", "673"), Concept("Gene", "5604")


def test_spellings_are_added_up_with_64_bit_offsets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 32 bits Arrow groups more than 2 GB of them to nonsense, without a word."""
    paths = written(tmp_path, [[[("Gene", "673", "BRAF")]], [[("Gene", "5604", "MEK")]]])
    seen: list[pa.Schema] = []
    plain = concept_counts._sum

    def watched(tables: list[pa.Table], keys: list[str]) -> pa.Table:
        seen.extend(table.schema for table in tables if "spelling" in keys)
        return plain(tables, keys)

    monkeypatch.setattr(concept_counts, "_sum", watched)
    found = concept_table(paths, [counts_of(g673=2, g5604=1)])
    assert found.schema == SCHEMA and len(found) == 2 and seen
    assert {schema.field("spelling").type for schema in seen} == {pa.large_string()}


def test_many_parts_cost_no_more_than_grouping_all_rows_a_few_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grouped, plain = [], concept_counts._sum

    def watched(tables: list[pa.Table], keys: list[str]) -> pa.Table:
        grouped.append(sum(map(len, tables)))
        return plain(tables, keys)

    monkeypatch.setattr(concept_counts, "_sum", watched)
    numbers = [*range(1000), *[7] * 1000, *range(1000, 2000)]
    tables = (pa.table({"hash": [number], "count": [2]}) for number in numbers)
    found = concept_counts._add_up(tables, ["hash"]).sort_by("hash")
    assert found["hash"].to_pylist() == [*range(2000)]
    assert found["count"].to_pylist() == [2] * 7 + [2002] + [2] * 1992
    assert sum(grouped) < 5 * len(numbers) and max(grouped) < 1.5 * len(numbers)


def test_what_names_no_concept_is_not_counted() -> None:
    forms = [*gene("BRAF"), *gene("a gene", "-"), ("DomainMotif", "3514", "SH2")]
    assert forms_of(columns_of(forms))["name"].to_pylist() == ["BRAF"]


def columns_of(forms: list[Form]) -> MentionColumns:
    found = [RawMention(0, len(name), name, kind, number, 1) for kind, number, name in forms]
    return MentionColumns.of([CheckedDocument("1", "1", None, "", (), found, "a")])


def counts_of(**times: int) -> np.ndarray:
    rows = sorted((concept_hash(Concept("Gene", name[1:])), n) for name, n in times.items())
    return np.array(rows, dtype=COUNT)


def written(folder: Path, parts: list[list[list[Form]]]) -> list[Path]:
    """Parts, each of which came in several batches."""
    paths = [folder / f"part-{number}.forms" for number in range(len(parts))]
    for path, batches in zip(paths, parts, strict=True):
        write_forms(path, [forms_of(columns_of(forms)) for forms in batches])
    return paths


def rows_of(folder: Path, parts: list[list[list[Form]]], *counts: np.ndarray) -> list[tuple]:
    rows = concept_table(written(folder, parts), counts).sort_by("hash").to_pylist()
    return [tuple(row.values()) for row in rows]


def gene(name: str, identifier: str = "673", times: int = 1) -> list[Form]:
    return [("Gene", identifier, name)] * times


def test_the_name_is_the_commonest_over_all_parts(tmp_path: Path) -> None:
    parts = [
        [gene("BRAF", times=3), gene("B-raf", times=2)],
        [gene("B-raf", times=2) + gene("braf1", times=3)],
    ]
    assert rows_of(tmp_path, parts, counts_of(g673=9)) == [
        (concept_hash(BRAF), "Gene", "673", 9, "B-raf")
    ]


def test_of_equally_common_names_the_first_of_the_alphabet_is_taken(tmp_path: Path) -> None:
    for number, names in enumerate((["b", "a", "B"], ["a", "B", "b"])):
        (tmp_path / str(number)).mkdir()
        (row,) = rows_of(
            tmp_path / str(number), [[gene(name)] for name in names], counts_of(g673=1)
        )
        assert row[-1] == "B"


def test_spellings_of_one_concept_are_counted_together(tmp_path: Path) -> None:
    forms = [*gene("A", times=3), *gene("b", "673(Tax:9606)", 2), ("GeneOrGeneProduct", "673", "b")]
    forms += [("Gene", "673;5604", "b")]
    rows = rows_of(tmp_path, [[forms]], counts_of(g673=7, g5604=1))
    assert {row[2:] for row in rows} == {("673", 7, "b"), ("5604", 1, "b")}


def test_only_what_the_shards_mention_is_counted_and_as_often_as_they_do(tmp_path: Path) -> None:
    """Parts hold copies, too, that did not stay."""
    parts = [[gene("BRAF", times=50) + gene("MEK", "5604", 50) + gene("", "3845")]]
    rows = rows_of(tmp_path, parts, counts_of(g673=2), counts_of(g673=3, g3845=1))
    assert sorted(row[2:] for row in rows) == [("3845", 1, ""), ("673", 5, "BRAF")]


def test_rows_come_in_the_order_of_their_hashes(tmp_path: Path) -> None:
    numbers = [str(n) for n in range(1, 40)]
    parts = [[[form for n in numbers for form in gene(f"gene {n}", n)]]]
    rows = rows_of(tmp_path, parts, counts_of(**{f"g{n}": 1 for n in numbers}))
    hashes = [row[0] for row in rows]
    assert hashes == sorted(hashes) and len(hashes) == 39


@pytest.mark.parametrize("forms", [[], [("Gene", "-", "gene")], [("DomainMotif", "3514", "SH2")]])
def test_what_has_no_concept_has_no_row(tmp_path: Path, forms: list[Form]) -> None:
    assert rows_of(tmp_path, [[forms]], np.zeros(0, dtype=COUNT)) == []


def test_rows_of_a_shard_are_counted_without_those_that_have_no_concept() -> None:
    mentions = np.zeros(5, dtype=MENTION_ROW)
    mentions["concept"] = [2**64 - 1, 0, 7, 2**64 - 1, 0]
    assert count_concepts(mentions).tolist() == [(7, 1), (2**64 - 1, 2)]
    assert count_concepts(mentions[:0]).tolist() == []


names = st.tuples(
    st.sampled_from(["Gene", "GeneOrGeneProduct"]), st.sampled_from(["673", "5604"]), st.text("ab")
)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.lists(st.lists(names, max_size=5), min_size=1, max_size=3), min_size=1, max_size=5)
)
def test_however_forms_are_cut_into_parts_the_names_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[list[Form]]]
) -> None:
    paths = written(tmp_path_factory.mktemp("forms"), parts)
    found = {
        row["identifier"]: row["name"]
        for row in concept_table(paths, [counts_of(g673=1, g5604=1)]).to_pylist()
    }
    counted: dict[str, Counter[str]] = {}
    for _, identifier, name in (form for batches in parts for forms in batches for form in forms):
        counted.setdefault(identifier, Counter())[name] += 1
    assert found == {
        identifier: min(of, key=lambda name: (-of[name], name))
        for identifier, of in counted.items()
    }
