"""Word pieces of many texts at once: the Hugging Face tokenizer, asked once for each word.

    texts ─join─▶ bytes ─cut at spaces and punctuation─▶ words ─cache, HF where new─▶ Pieces

BERT's pre-tokenizer separates at white space and punctuation before anything else, so the pieces of
a word do not depend on its neighbours. Only ASCII is cut here: a run that holds any other character
goes to Hugging Face as it is, and may come back as several words.
"""

import json
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

MAX_WORDS = 1 << 20  # some 200 MB; a full cache is emptied, most words come back at once
WORD, SPACE, PUNCTUATION = 0, 1, 2
NOTHING = np.zeros(0, dtype=np.int64)


def _classes() -> np.ndarray:
    """What each byte is. Control characters are removed by BERT and so belong to their word."""
    classes = np.full(256, WORD, dtype=np.uint8)
    classes[[ord(c) for c in " \t\n\r"]] = SPACE
    classes[[code for code in range(33, 127) if not chr(code).isalnum()]] = PUNCTUATION
    return classes


def _folded(lower: bool) -> np.ndarray:
    """What each byte is to a tokenizer: all spaces are one, and letters small where it says so."""
    folded = np.arange(256, dtype=np.uint8)
    folded[CLASSES == SPACE] = ord(" ")
    if lower:
        folded[ord("A") : ord("Z") + 1] += 32
    return folded


CLASSES = _classes()


@dataclass(frozen=True, slots=True)
class Pieces:
    """The word pieces of several texts, end to end.

    `ids`, `starts`, `ends` (num_tokens,): the token, and its characters within its own text.
    `first` (num_texts + 1,): where each text's tokens begin, and the end of the last.
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    first: np.ndarray


class CachedTokenizer:
    """A tokenizer with a memory for words. Its tokens and offsets are Hugging Face's own."""

    def __init__(self, backend: Tokenizer):
        self._backend = backend
        parts = json.loads(backend.to_str())
        added = parts["added_tokens"]
        if backend.encode_special_tokens:
            added = [token for token in added if not token["special"]]
        # What Hugging Face finds in a text before it looks for words.
        contents = "|".join(re.escape(token["content"]) for token in added)
        self._added = re.compile(contents) if contents else None
        self._by_word = (
            (parts["normalizer"] or {}).get("type") == "BertNormalizer"
            and (parts["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
            and parts["model"]["type"] == "WordPiece"
            and not any(token["normalized"] or token["single_word"] for token in added)
        )
        model = parts["model"]
        pieces: dict[str, int] = model.get("vocab", {}) if self._by_word else {}
        prefix = model.get("continuing_subword_prefix", "")
        self._beginnings = pieces
        self._continuations = {
            piece.removeprefix(prefix): number
            for piece, number in pieces.items()
            if piece.startswith(prefix)
        }
        self._longest_piece = max(map(len, pieces), default=0)
        self._longest_word = model.get("max_input_chars_per_word", 0)
        self._folded = _folded(lower=bool((parts["normalizer"] or {}).get("lowercase")))
        self._forget()

    def encode(self, texts: Sequence[str]) -> Pieces:
        """The word pieces of texts, without special tokens."""
        joined = "\n".join(texts)
        if not self._by_word or (self._added and self._added.search(joined)):
            return self.encode_whole(texts)
        data = np.frombuffer(joined.encode(), dtype=np.uint8)
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        text_starts = np.cumsum(lengths + 1) - (lengths + 1)
        cuts, words = self._words(data)
        chars = cuts if len(data) == len(joined) else _characters(data, cuts)
        first_word = np.append(np.searchsorted(chars, text_starts), len(words))
        within = chars - np.repeat(text_starts, np.diff(first_word))
        counts = self._counts[words]
        num_before = np.append(0, np.cumsum(counts))
        # Token n of the texts is token n + shift of the cache, one shift for each word.
        shift = np.repeat(self._first[words] - num_before[:-1], counts)
        spot = np.arange(num_before[-1]) + shift
        within = np.repeat(within, counts)
        return Pieces(
            ids=self._ids[spot],
            starts=self._starts[spot] + within,
            ends=self._ends[spot] + within,
            first=num_before[first_word],
        )

    def _words(self, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(num_words,) the byte where each word begins, and its row in the cache."""
        data = np.take(self._folded, data)
        classes = np.take(CLASSES, data)
        begins = classes == PUNCTUATION
        inside = classes == WORD
        begins[:1] |= inside[:1]
        begins[1:] |= inside[1:] & (classes[:-1] != WORD)
        cuts = np.flatnonzero(begins)
        if not len(cuts):
            return cuts, cuts
        # Each word takes the spaces behind it along, so that words tile the text and Arrow can
        # look at them where they are.
        offsets = np.append(cuts, len(data)).astype(np.int64)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        found = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(cuts), buffers)
        found = found.dictionary_encode()
        rows = self._rows(found.dictionary.to_pylist())
        return cuts, rows[found.indices.to_numpy(zero_copy_only=False)]

    def _rows(self, words: list[bytes]) -> np.ndarray:
        """(num_words,) where the cache has each word, after it learnt those it had not."""
        if len(self._cache) + len(words) > MAX_WORDS:
            self._forget()
        cache = self._cache
        new = [word for word in words if word not in cache]
        if new:
            self._learn(new)
        return np.fromiter(map(cache.__getitem__, words), dtype=np.int64, count=len(words))

    def _learn(self, words: list[bytes]) -> None:
        # Arrays that look at the lists keep them from growing.
        self._counts = self._first = self._ids = self._starts = self._ends = NOTHING
        cache = self._cache
        bare = [word.rstrip(b" ") for word in words]  # a word with another space is no other word
        others: list[str] = []
        for word in dict.fromkeys(bare):
            if word in cache:
                continue
            text = word.decode()
            found = self._pieces_of(text) if text.isascii() and text.isalnum() else None
            if found is None:
                others.append(text)
            else:
                ids, starts = found
                self._remember(word, ids, starts, [*starts[1:], len(text)])
        encodings = self._backend.encode_batch(others, add_special_tokens=False)
        for text, encoding in zip(others, encodings, strict=True):
            starts, ends = zip(*encoding.offsets, strict=True) if encoding.ids else ((), ())
            self._remember(text.encode(), encoding.ids, starts, ends)
        cache.update(zip(words, map(cache.__getitem__, bare), strict=True))
        self._counts, self._first, self._ids, self._starts, self._ends = (
            np.frombuffer(values, dtype=np.int64) for values in self._grown
        )

    def _remember(
        self, word: bytes, ids: Sequence[int], starts: Sequence[int], ends: Sequence[int]
    ) -> None:
        counts, first, all_ids, all_starts, all_ends = self._grown
        self._cache[word] = len(counts)
        counts.append(len(ids))
        first.append(len(all_ids))
        all_ids.extend(ids)
        all_starts.extend(starts)
        all_ends.extend(ends)

    def _pieces_of(self, text: str) -> tuple[list[int], list[int]] | None:
        """WordPiece of a folded word: the longest piece that is known, then the longest behind it.

        Ids and where they start, or None where no pieces make up the word.
        """
        ids, starts, start, end = [], [], 0, len(text)
        if end > self._longest_word:
            return None
        get = self._beginnings.get
        while start < end:
            for stop in range(min(end, start + self._longest_piece), start, -1):
                number = get(text[start:stop])
                if number is not None:
                    break
            else:
                return None
            ids.append(number)
            starts.append(start)
            start, get = stop, self._continuations.get
        return ids, starts

    def _forget(self) -> None:
        self._cache: dict[bytes, int] = {}
        # One entry that no word uses: a buffer of nothing cannot be looked at.
        self._grown = tuple(array("q", [0]) for _ in range(5))
        self._learn([])

    def encode_whole(self, texts: Sequence[str]) -> Pieces:
        """The same without the cache: what it must agree with, and what other tokenizers take."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        offsets = [np.array(e.offsets, dtype=np.int64).reshape(-1, 2) for e in encodings]
        offsets = np.concatenate([np.zeros((0, 2), dtype=np.int64), *offsets])
        return Pieces(
            ids=np.array([i for e in encodings for i in e.ids], dtype=np.int64),
            starts=offsets[:, 0],
            ends=offsets[:, 1],
            first=np.cumsum([0, *(len(e.ids) for e in encodings)]),
        )


def _characters(data: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """(n,) bytes of UTF-8 as characters: a continuation byte begins none."""
    return (np.cumsum((data & 0xC0) != 0x80) - 1)[cuts]
