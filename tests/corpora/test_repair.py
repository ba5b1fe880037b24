"""Offsets that are wrong by a rule are repaired, and those that are wrong without one dropped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embre.corpora.assemble import check
from embre.corpora.raw import CheckedDocument, RawDocument, RawMention, RawPassage
from embre.corpora.spelling import same_words
from embre.tally import Tally

TITLE = "Mutations of BRAF and KRAS in melanoma"
ABSTRACT = "Trametinib helps patients with PAX6 loss, anterior segment malformation and BRAF V600E."


def mention(start: int, text: str, end: int | None = None, type: str = "Gene") -> RawMention:
    return RawMention(start, start + len(text) if end is None else end, text, type, "1", 1)


def checked(
    mentions: list[RawMention], title: str = TITLE, abstract: str = ABSTRACT
) -> tuple[CheckedDocument, dict[str, int]]:
    tally = Tally()
    passages = [RawPassage(0, title, "title"), RawPassage(len(title) + 1, abstract, "abstract")]
    doc = check(RawDocument("7", None, None, passages, mentions, [], "small"), tally)
    assert all(same_words(doc.text[m.start : m.end], m.text) for m in doc.mentions)
    return doc, dict(tally.counts)


def at(doc: CheckedDocument) -> list[tuple[int, str]]:
    return [(mention.start, mention.text) for mention in doc.mentions]


def places(*words: str, title: str = TITLE, abstract: str = ABSTRACT) -> list[tuple[int, str]]:
    return [(f"{title} {abstract}".index(word), word) for word in words]


def test_byte_offsets_are_read_as_characters():
    title = "Krüppel-like factors and the β-catenin of naïve cells"
    words = ["Krüppel-like", "factors", "β-catenin", "naïve", "cells", "Trametinib"]
    expected = places(*words, title=title)
    text = f"{title} {ABSTRACT}"
    in_bytes = [
        mention(len(text[:start].encode()), word, len(text[: start + len(word)].encode()))
        for start, word in expected
    ]
    doc, counts = checked(in_bytes, title)
    assert at(doc) == expected
    assert counts == {"repaired/byte_offset": 6}


@pytest.mark.parametrize(
    ("title", "shift"), [(TITLE, 1), (TITLE, -1), (TITLE, 2), (TITLE + " ", -1)]
)
def test_another_join_of_title_and_abstract_moves_all_behind_the_title(title, shift):
    inside, behind = places("BRAF", title=title), places("Trametinib", "PAX6", title=title)
    mentions = [mention(start, word) for start, word in inside]
    mentions += [mention(start + shift, word) for start, word in behind]
    doc, counts = checked(mentions, title)
    assert at(doc) == inside + behind
    assert counts == {"repaired/joined_otherwise": 2}


def test_one_mention_shows_no_other_join_unless_the_title_ends_in_a_blank():
    (start, word), *_ = places("Trametinib")
    assert checked([mention(start - 1, word)])[1] == {"mention/offset_mismatch": 1}
    doc, counts = checked([mention(start, word)], TITLE + " ")
    assert at(doc) == [(start + 1, word)] and counts == {"repaired/joined_otherwise": 1}


def test_mentions_that_fit_behind_the_title_speak_against_another_join():
    good = [mention(*place) for place in places("Trametinib", "patients", "PAX6")]
    bad = [mention(start + 1, word) for start, word in places("anterior segment", "V600E")]
    _, counts = checked(good + bad)
    assert "repaired/joined_otherwise" not in counts


def test_neighbours_that_are_off_by_the_same_move_together():
    first, second = places("PAX6", "anterior segment"), places("malformation", "V600E")
    mentions = [mention(start + 3, word) for start, word in first]
    mentions += [mention(start + 7, word) for start, word in second]
    doc, counts = checked(mentions)
    assert at(doc) == first + second
    assert counts == {"repaired/shifted_block": 4}


def test_one_mention_alone_is_not_moved():
    (start, word), *_ = places("anterior segment")
    assert checked([mention(start + 3, word)])[1] == {"mention/offset_mismatch": 1}


def test_mentions_that_two_shifts_explain_are_not_moved():
    title = "ABCD efgh ABCD efgh ABCD efgh"
    _, counts = checked([mention(5, "ABCD"), mention(15, "ABCD")], title, "")
    assert counts == {"mention/offset_mismatch": 2}


def test_a_mention_longer_or_shorter_than_it_says_keeps_its_start():
    (start, word), *_ = places("anterior segment malformation")
    doc, counts = checked([mention(start, word, start + 8)])
    assert at(doc) == [(start, word)] and counts == {"repaired/wrong_end": 1}
    doc, counts = checked([mention(13, "α-BRAF", 19)], "Mutations of alpha-BRAF")
    assert doc.mentions[0].end == 23 and counts == {"repaired/wrong_end": 1}


@pytest.mark.parametrize(
    ("there", "claimed", "same"),
    [
        ("a-ketoglutarate", "α‑ketoglutarate", True),
        ("TGF-beta", "TGF-β", True),
        ("Δ9-THC", "delta9-thc", True),
        ("strasse", "Straße", True),
        ('"TATA" box', " TATA  box", True),
        ("Sjogren's", "Sjogren''s", True),
        ("BRAF", "CRAF", False),
        ("p53", "p63", False),
        ("abc", "αβγ", False),
        ("beta", "α", False),
    ],
)
def test_transliterations_are_the_same_words(there, claimed, same):
    assert same_words(there, claimed) is same


_letters = st.text("ab αβ", min_size=1, max_size=30)
_spans = st.lists(st.tuples(st.integers(-3, 40), st.integers(-3, 9), _letters), max_size=8)


@given(title=_letters, abstract=_letters, spans=_spans)
def test_whatever_is_kept_reads_as_it_says_and_the_rest_is_counted(title, abstract, spans):
    mentions = [mention(start, words, start + length) for start, length, words in spans]
    doc, counts = checked(mentions, title, abstract)
    lost = sum(count for reason, count in counts.items() if reason.startswith("mention/"))
    assert len(doc.mentions) + lost == len(mentions)
    assert doc.mentions == sorted(doc.mentions)
    assert all(0 <= m.start < m.end <= len(doc.text) for m in doc.mentions)
