"""Of several versions of an article the best stays, in whatever order they came; all is counted."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embre.sharding.parts import INDEX
from embre.sharding.selection import choose

NONE_HELD: list[set[int]] = []


def index_of(*rows: dict[str, int]) -> np.ndarray:
    """Rows of INDEX; those that say nothing of their place or content have one of their own."""
    index = np.zeros(len(rows), dtype=INDEX)
    for number, row in enumerate(rows):
        for name, value in ({"place": 100 + number, "content": 100 + number} | row).items():
            index[name][number] = value
    return index


def chosen(*rows: dict[str, int], held: list[set[int]] = NONE_HELD) -> list[int]:
    return choose(index_of(*rows), held)[0].tolist()


@pytest.mark.parametrize(
    ("identity", "reason"), [("pmid", "same_pmid"), ("name", "same_id"), ("text", "same_text")]
)
def test_one_identity_is_one_article_and_the_longest_version_stays(
    identity: str, reason: str
) -> None:
    rows = [{identity: 7, "tokens": n, "mentions": 100 - n} for n in (10, 30, 20)]
    rows.append({identity: 8, "tokens": 5})
    stays, dropped, _ = choose(index_of(*rows), [])
    assert stays.tolist() == [1, 3]
    assert dropped == {f"document/{reason}": 2}


def test_of_equally_long_versions_the_one_with_most_mentions_stays() -> None:
    assert chosen(*({"pmid": 7, "tokens": 9, "mentions": n} for n in (2, 5, 3))) == [1]


def test_a_zero_says_nothing_about_a_document() -> None:
    rows = [{"pmid": 0, "name": 0, "text": 0, "title": 0} for _ in range(4)]
    stays, dropped, _ = choose(index_of(*rows), [])
    assert stays.tolist() == [0, 1, 2, 3] and dropped == {}


def test_one_number_as_pmid_and_as_another_id_is_two_articles() -> None:
    assert chosen({"pmid": 7}, {"name": 7}, {"text": 7}) == [0, 1, 2]


def test_one_title_alone_does_not_make_one_article() -> None:
    assert chosen({"pmid": 7, "title": 5}, {"pmid": 8, "title": 5}) == [0, 1]


def test_documents_come_in_the_order_of_their_places() -> None:
    places = [2**64 - 1, 3, 2**63, 0]
    assert chosen(*({"pmid": n, "place": place} for n, place in enumerate(places))) == [3, 1, 2, 0]


def test_what_was_a_copy_of_a_dropped_version_may_stay() -> None:
    full, abstract, copy = (
        {"pmid": 7, "text": 1, "tokens": 90},
        {"pmid": 7, "text": 2, "tokens": 9},
        {"name": 5, "text": 2, "tokens": 9},
    )
    assert chosen(full, abstract, copy) == [0, 2]


def test_a_chain_of_identities_leaves_the_best_of_each_link() -> None:
    """Abstract and full text share a PMID, full text and a row of somebody's file the text."""
    rows = [
        {"pmid": 7, "text": 1, "tokens": 9},
        {"pmid": 7, "name": 3, "text": 2, "tokens": 90},
        {"name": 3, "text": 4, "tokens": 80},
        {"name": 6, "text": 2, "tokens": 90, "mentions": 1},
    ]
    stays, dropped, _ = choose(index_of(*rows), [])
    assert stays.tolist() == [3]
    assert dropped == {
        "document/same_pmid": 1,
        "document/same_id": 1,
        "document/same_text": 1,
    }


def test_text_or_title_of_a_held_document_holds_out_and_the_first_list_counts_it() -> None:
    rows = [{"text": 1}, {"title": 2}, {"text": 3, "title": 2}, {"text": 2, "title": 1}, {}]
    stays, dropped, num_held = choose(index_of(*rows[:3], {"text": 9}, rows[4]), [{1}, {1, 2}])
    assert stays.tolist() == [3, 4] and not dropped
    assert num_held == [1, 2]


def test_a_fingerprint_that_is_held_holds_out_every_version_before_copies_are_dropped() -> None:
    rows = [{"pmid": 7, "text": 1, "tokens": 90}, {"pmid": 7, "text": 2, "tokens": 9}]
    stays, dropped, num_held = choose(index_of(*rows), [{1}])
    assert stays.tolist() == [1] and not dropped and num_held == [1]


def test_nothing_at_all_is_chosen_of_nothing() -> None:
    stays, dropped, num_held = choose(index_of(), [{1}, set()])
    assert len(stays) == 0 and dropped == {} and num_held == [0, 0]


few = st.integers(0, 3)
rows_with_copies = st.lists(
    st.fixed_dictionaries({name: few for name in INDEX.names if name not in ("content", "place")}),
    max_size=12,
)


def with_own_content(rows: list[dict[str, int]], own: bool) -> np.ndarray:
    """Place and content as a part has them: of the PMID or the id, of tokens and mentions."""
    for number, row in enumerate(rows):
        row["place"] = hash(("place", row["pmid"] or row["name"])) % 2**64
        row["content"] = 1000 + number if own else row["text"] + 1
        if not own:
            row["tokens"] = row["mentions"] = row["text"]
    return index_of(*rows)


@settings(deadline=None)
@given(rows_with_copies, st.randoms(use_true_random=False), st.lists(st.sets(few, max_size=2)))
def test_the_order_of_rows_decides_nothing(rows, random, held) -> None:
    index = with_own_content(rows, own=True)
    stays, *counts = choose(index, held)
    shuffled = index[random.sample(range(len(index)), len(index))]
    others, *other_counts = choose(shuffled, held)
    assert index[stays].tolist() == shuffled[others].tolist()
    assert counts == other_counts


def test_the_order_of_rows_decides_nothing_between_equal_texts_either() -> None:
    index = index_of({"pmid": 1, "text": 5, "content": 5}, {"pmid": 2, "text": 5, "content": 5})
    assert index[choose(index, [])[0]]["pmid"] == index[::-1][choose(index[::-1], [])[0]]["pmid"]


def test_of_equal_texts_with_one_pmid_and_two_other_ids_the_same_one_stays() -> None:
    index = index_of(
        {"pmid": 1, "name": 5, "text": 9, "content": 9, "place": 7, "tokens": 8},
        {"pmid": 1, "name": 6, "text": 9, "content": 9, "place": 7, "tokens": 8},
        {"pmid": 2, "name": 5},
    )
    left = [sorted(rows[choose(rows, [])[0]]["pmid"]) for rows in (index, index[[1, 0, 2]])]
    assert left[0] == left[1]


@settings(deadline=None)
@given(rows_with_copies, st.lists(st.sets(st.integers(1, 3), max_size=2)), st.booleans())
def test_every_row_is_kept_or_dropped_or_held_and_none_is_there_twice(rows, held, own) -> None:
    index = with_own_content(rows, own)
    stays, dropped, num_held = choose(index, held)
    assert len(stays) + sum(dropped.values()) + sum(num_held) == len(index)
    for identity in ("pmid", "name", "text"):
        values = index[identity][stays]
        assert len(np.unique(values[values > 0])) == (values > 0).sum()
    known = set().union(*held)
    assert known.isdisjoint(index["text"][stays]) and known.isdisjoint(index["title"][stays])


def test_choosing_takes_a_bounded_number_of_bytes_for_each_document() -> None:
    """PubMed is 38 million documents: at 100 bytes each, beside the index, 4 GB."""
    random = np.random.default_rng(1)
    index = np.zeros(200_000, dtype=INDEX)
    for name in INDEX.names[:-1]:
        index[name] = random.integers(0, 10_000_000, len(index))
    tracemalloc.start()
    try:
        stays, dropped, _ = choose(index, [set(range(1000))])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < len(stays) < len(index) and len(dropped) == 3
    assert peak_bytes / len(index) < 100
