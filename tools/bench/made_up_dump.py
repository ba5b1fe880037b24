"""A made-up PubTator dump: any number of documents as long, dense and varied as those of BioRED.

    made_up_words, made_up_entities ─500 documents at a time─▶ MadeUpDocument…

Compared with real documents, 20,000 of seed 0, words counted by a BERT pre-tokenizer:

    per document             made up   BioRED        different words after    made up   real
    bytes of text              1,623    1,665           30,000 words            4,833    5,402
    bytes of PubTator text     4,056    4,021          100,000 words            9,269   11,324
    bytes of BioC-XML          9,843    9,443          300,000 words           18,147   21,753
    words and punctuation        317      312        1,000,000 words           38,188   41,548
    PubMedBERT tokens            371      341        2,000,000 words           57,631   59,803
    mentions                    33.5     33.8        (without numbers and punctuation; real are
    concepts                    12.0     11.5        22,000 texts of BioRED, BC5CDR, the AIONER
    concepts in 500 documents  3,170    3,277        corpora and samples of PubTator, shuffled)

So an exact cache of words misses as often as on real text. There are 9 % more tokens, because words
built by rule have more pieces than real ones. Beyond 500 documents there is no real dump to compare
with: 12,000 have 26,230 concepts and 30,000 have 44,753; the growth from BioRED to the 4.6 million
of all of PubTator predicts 25,451 and 45,960.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count, pairwise
from typing import NamedTuple

import numpy as np
from made_up_entities import Catalogue, make_catalogue
from made_up_words import NUM_RANKED, ranked_words, rare_words

FIRST_DOC_ID = 10_000_001
DOCS_AT_ONCE = 500
MAX_CONCEPTS = 32  # of a document

# Share of the n most frequent words, without numbers and mentions. Real abstracts have less in the
# first 3,000 and more in the next 27,000; but those are single pieces in a biomedical vocabulary,
# and words built by rule are not.
SHARE_OF_RANKS = {1: 0.055, 3: 0.14, 10: 0.26, 30: 0.36, 100: 0.48, 300: 0.62, 1000: 0.80}
SHARE_OF_RANKS |= {3000: 0.945, 10_000: 0.978, 30_000: 0.9905}
# Beyond the ranked words, frequency is proportional to rank^-1.9, so that the number of distinct
# words grows with the number of words to the power of 1 / 1.9 = 0.53 (Heaps' law), as in three
# million words of real abstracts.
RARE_FALL, RARE_FROM = 1.9, 30_000.0
NUMBER_SHARE = 0.045
DECIMAL_SHARE = 0.25  # of numbers are followed by a point and another number
MEAN_CHARS, SD_CHARS, CHARS_PER_WORD = 1668, 427, 6.85
MEAN_MENTIONS, SD_MENTIONS = 33.8, 14.0
MENTIONS_PER_CONCEPT = 2.9
MEAN_RELATIONS = 10.7
RELATION_TYPES = np.array("Association Positive_Correlation Negative_Correlation Bind".split())

# Separators of words, with their frequency in real abstracts.
BETWEEN = {" ": 0.78, ", ": 0.042, "-": 0.037, ". ": 0.037, " (": 0.024, ") ": 0.017, "/": 0.0053}
BETWEEN |= {"). ": 0.005, ": ": 0.0037, "), ": 0.0037, "; ": 0.003, " = ": 0.0025, "% ": 0.002}
BETWEEN |= {" [": 0.0014, "=": 0.0012, "'": 0.001, " + ": 0.001, "]. ": 0.001, " < ": 0.001}
BETWEEN |= {" & ": 0.0002, " > ": 0.0003, "%) ": 0.0005}
SEPARATORS = [*BETWEEN, "."]
POINT, SENTENCE = SEPARATORS.index("."), SEPARATORS.index(". ")

# Replacements of single characters, which keep offsets.
FOREIGN = (("-", "\u2013"), ("e", "\u00e9"), ("a", "\u03b1"), ("u", "\u00b5"), ("o", "\u00f6"))
FOREIGN += (("b", "\u03b2"), ("=", "\u2248"), ("i", "\u0131"), ("s", "\U0001d6fc"), (" ", "\u00a0"))

END_OF_CAPITALS = 2 * NUM_RANKED
NUM_NUMBERS = 10_000
FIRST_NAME = END_OF_CAPITALS + NUM_NUMBERS


Role = tuple[str, str]  # the type and the identifier of a concept


class MadeUpDocument(NamedTuple):
    """A title and an abstract in one text, a space between them at `title_end`."""

    doc_id: str
    text: str
    title_end: int
    mentions: list[tuple[int, int, str, Role]]  # start, end, surface, what it is
    relations: list[tuple[str, Role, Role, str]]  # type, two concepts, score


@dataclass(frozen=True, slots=True)
class Tables:
    """All strings of a text, and tables from random numbers to their indices."""

    catalogue: Catalogue
    strings: np.ndarray  # ranked words, the same capitalised, numbers, names of concepts
    lengths: np.ndarray
    word_of: np.ndarray  # one of a million random numbers → rank; NUM_RANKED means a rare word
    number_of: np.ndarray
    separator_of: np.ndarray
    separators: np.ndarray
    separator_lengths: np.ndarray
    ends_sentence: np.ndarray


@cache
def tables() -> Tables:
    """The tables, built once in half a second."""
    words, catalogue = ranked_words(), make_catalogue()
    numbers = [str(number) for number in range(NUM_NUMBERS)]
    strings = [*words, *(word.capitalize() for word in words), *numbers, *catalogue.names]
    separators = np.array(SEPARATORS, dtype=object)
    return Tables(
        catalogue=catalogue,
        strings=np.array(strings, dtype=object),
        lengths=np.array([len(text) for text in strings], dtype=np.int32),
        word_of=_guide(_shares_by_rank(), 1 << 20),
        number_of=_guide(_shares_of_numbers(), 1 << 16),
        separator_of=_guide(np.array(list(BETWEEN.values())), 1 << 14),
        separators=separators,
        separator_lengths=np.array([len(text) for text in SEPARATORS], dtype=np.int32),
        ends_sentence=np.array([text.endswith((". ", "? ")) for text in SEPARATORS]),
    )


def make_documents(num_documents: int, seed: int, foreign_share: float = 0.02) -> Iterator:
    """Yield distinct MadeUpDocuments with ids from 10000001 on.

    Their content does not depend on `num_documents`. `foreign_share` of them have non-ASCII
    characters, in mentions too.
    """
    for chunk in count():
        left = num_documents - chunk * DOCS_AT_ONCE
        if left <= 0:
            return
        yield from _make_chunk(chunk, seed, foreign_share, min(left, DOCS_AT_ONCE))


def _make_chunk(chunk: int, seed: int, foreign_share: float, num: int) -> Iterator[MadeUpDocument]:
    """Draw DOCS_AT_ONCE documents and yield the first `num`."""
    known, rng = tables(), np.random.default_rng((seed, chunk))
    chars = np.clip(rng.normal(MEAN_CHARS, SD_CHARS, DOCS_AT_ONCE), 350, 3600)
    num_words = (chars / CHARS_PER_WORD).astype(np.int64)
    ends = np.cumsum(num_words)
    firsts = ends - num_words
    doc_of = np.repeat(np.arange(DOCS_AT_ONCE), num_words)
    title_ends = firsts + np.minimum(rng.integers(8, 26, DOCS_AT_ONCE), num_words - 2)

    strings, at, concepts, is_number = _draw_strings(rng, known, doc_of, num_words)
    separators = _draw_separators(rng, known, is_number, ends, title_ends)
    words, lengths = _spell(rng, known, strings, separators)
    steps = lengths + known.separator_lengths.take(separators)
    starts = np.cumsum(steps) - steps
    starts -= np.repeat(starts[firsts], num_words)
    parts = np.empty(2 * len(words), dtype=object)
    parts[0::2], parts[1::2] = words, known.separators.take(separators)
    pieces, bounds = parts.tolist(), [0, *(2 * ends).tolist()]

    mention_starts = starts[at]
    columns = (mention_starts, mention_starts + lengths[at], words[at])
    kinds = known.catalogue.kinds.take(concepts)
    rows = list(zip(*(column.tolist() for column in columns), kinds.tolist(), strict=True))
    mentions = _by_document(rows, np.searchsorted(at, ends))
    relations = _draw_relations(rng, known, concepts, np.searchsorted(at, [0, *ends]))
    title_chars = (starts[title_ends] + steps[title_ends] - 1).tolist()
    foreign = (rng.random(DOCS_AT_ONCE) < foreign_share).tolist()
    first_id = FIRST_DOC_ID + chunk * DOCS_AT_ONCE
    for index in range(num):
        # The separator after a document's last word ends in a space, which is not written.
        text, found = "".join(pieces[bounds[index] : bounds[index + 1]])[:-1], mentions[index]
        if foreign[index]:
            text = _make_foreign(text, index)
            found = [(start, end, text[start:end], role) for start, end, _, role in found]
        doc_id = str(first_id + index)
        yield MadeUpDocument(doc_id, text, title_chars[index], found, relations[index])


def _by_document(rows: list, ends: np.ndarray) -> list[list]:
    return [rows[start:end] for start, end in pairwise([0, *ends.tolist()])]


def _draw_strings(
    rng: np.random.Generator, known: Tables, doc_of: np.ndarray, num_words: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The string at each place of the texts; the places of mentions and their concepts; which
    places are numbers."""
    num_mentions = np.clip(rng.normal(MEAN_MENTIONS, SD_MENTIONS, len(num_words)), 2, 90)
    dice = rng.random(len(doc_of))
    mention_share = (num_mentions / num_words)[doc_of]
    is_mention = dice < mention_share
    is_number = dice > 1 - NUMBER_SHARE
    is_number[1:] |= is_number[:-1] & (rng.random(len(doc_of) - 1) < DECIMAL_SHARE)
    is_mention &= ~is_number

    strings = known.word_of[rng.integers(0, len(known.word_of), len(doc_of))].astype(np.int64)
    drawn = rng.integers(0, len(known.number_of), int(is_number.sum()))
    strings[is_number] = END_OF_CAPITALS + known.number_of.take(drawn)

    at = np.flatnonzero(is_mention)
    candidates = known.catalogue.draw(rng, (len(num_words), MAX_CONCEPTS))
    wanted = np.clip(num_mentions / MENTIONS_PER_CONCEPT * 1.15, 1, MAX_CONCEPTS)[doc_of[at]]
    # The first concepts of a document are mentioned more often than the others.
    place = (wanted * rng.random(len(at)) ** 1.4).astype(np.int64)
    concepts = candidates[doc_of[at], place]
    strings[at] = FIRST_NAME + 2 * concepts + rng.integers(0, 2, len(at))
    return strings, at, concepts, is_number


def _draw_separators(
    rng: np.random.Generator,
    known: Tables,
    is_number: np.ndarray,
    ends: np.ndarray,
    title_ends: np.ndarray,
) -> np.ndarray:
    """The separator after each word: a point in decimals, a full stop after title and abstract."""
    drawn = known.separator_of[rng.integers(0, len(known.separator_of), len(is_number))]
    separators = drawn.astype(np.int64)
    separators[:-1][is_number[:-1] & is_number[1:]] = POINT
    separators[title_ends] = SENTENCE
    separators[ends - 1] = SENTENCE
    return separators


def _spell(
    rng: np.random.Generator, known: Tables, strings: np.ndarray, separators: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The words and their lengths; makes rare ones, and capitalizes the first of a sentence."""
    rare = np.flatnonzero(strings == NUM_RANKED)
    opens = np.append(True, known.ends_sentence[separators[:-1]]) & (strings < NUM_RANKED)
    strings = np.where(opens, strings + NUM_RANKED, strings)
    words, lengths = known.strings.take(strings), known.lengths.take(strings)
    ranks = RARE_FROM * (rng.random(len(rare)) ** (-1 / (RARE_FALL - 1)) - 1)
    made = rare_words(np.minimum(ranks, 2.0**50).astype(np.int64))
    words[rare] = made
    lengths[rare] = [len(word) for word in made]
    return words, lengths


def _draw_relations(
    rng: np.random.Generator, known: Tables, concepts: np.ndarray, bounds: np.ndarray
) -> list[list[tuple[str, Role, Role, str]]]:
    """The relations of each document: type, the two concepts, score."""
    num_mentions = np.diff(bounds)
    numbers = np.where(num_mentions > 1, rng.poisson(MEAN_RELATIONS * 1.15, len(num_mentions)), 0)
    doc_of = np.repeat(np.arange(len(numbers)), numbers)
    drawn = rng.random((2, len(doc_of))) * num_mentions[doc_of]
    heads, tails = concepts[bounds[doc_of] + drawn.astype(np.int64)]
    kept = np.flatnonzero(heads != tails)
    kinds = RELATION_TYPES[rng.integers(0, len(RELATION_TYPES), len(doc_of))]
    scores = [f"0.{score}" for score in rng.integers(5000, 9999, len(kept)).tolist()]
    roles = [known.catalogue.roles.take(ends[kept]).tolist() for ends in (heads, tails)]
    rows = list(zip(kinds[kept].tolist(), *roles, scores, strict=True))
    return _by_document(rows, np.searchsorted(doc_of[kept], np.arange(1, len(numbers) + 1)))


def _make_foreign(text: str, index: int) -> str:
    for plain, foreign in (FOREIGN[index % len(FOREIGN)], FOREIGN[index // 3 % len(FOREIGN)]):
        text = text.replace(plain, foreign, 3)
    return text


def _shares_by_rank() -> np.ndarray:
    """(NUM_RANKED + 1,) the share of each rank; the last is that of all rare words."""
    ranks = np.arange(NUM_RANKED + 1)
    knots = np.log([0.5, *SHARE_OF_RANKS])
    below = np.interp(np.log(np.maximum(ranks, 0.5)), knots, [0.0, *SHARE_OF_RANKS.values()])
    return np.append(np.diff(below), 1 - below[-1])


def _shares_of_numbers() -> np.ndarray:
    """Shares of numbers: half have one digit, a third two; low ones are more frequent."""
    shares = np.zeros(NUM_NUMBERS)
    for low, high, share in (
        (0, 10, 0.51),
        (10, 100, 0.34),
        (100, 1000, 0.11),
        (1000, 10_000, 0.04),
    ):
        falling = np.arange(1, high - low + 1) ** -0.7
        shares[low:high] = share * falling / falling.sum()
    return shares


def _guide(shares: np.ndarray, size: int) -> np.ndarray:
    """A lookup table of `size` entries in which each index has its share, for fast sampling."""
    return np.searchsorted(np.cumsum(shares / shares.sum()), (np.arange(size) + 0.5) / size).astype(
        np.int32
    )
