"""The words that the cache knows are cut as Hugging Face cuts whole texts: ids and offsets."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from embre.tokenization.cached import CachedTokenizer
from embre.tokenization.tokenizer import TextTokenizer, load_tokenizer
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@lru_cache
def cached(tokenizer: TextTokenizer) -> CachedTokenizer:
    return CachedTokenizer(tokenizer)


def assert_same(tokenizer: TextTokenizer, texts: list[str]) -> None:
    found = cached(tokenizer).encode(texts)
    assert len(found.first) == len(texts) + 1
    for number, text in enumerate(texts):
        part = slice(found.first[number], found.first[number + 1])
        whole = tokenizer.backend.encode(text, add_special_tokens=False)
        assert found.ids[part].tolist() == whole.ids, repr(text)
        offsets = list(zip(found.starts[part].tolist(), found.ends[part].tolist(), strict=True))
        assert offsets == whole.offsets, repr(text)


HARD = [
    "",
    " ",
    "BRAF V600E, in (melanoma)!",
    "  leading and trailing  \t\r\n",
    "naïve Köln α-ketoglutarate TNF-α",
    "cafe\u0301 e\u0301\u0301 -\u0301 \u0301",
    "a\u00a0b\u2009c\u3000d",
    "中文gene中 문자 𝕊ymbol 🧬",
    "nul\x00 bell\x07 vt\x0bx \x7f del",
    "[MASK] of [SEP] the [mask]",
    "x" * 101 + " " + "y" * 100,
    "İstanbul ẞ ß Σίσυφος",
    "\ufeffbom \ufffd replaced",
]


def test_hard_texts_are_cut_as_hugging_face_cuts_them(tokenizer: TextTokenizer) -> None:
    assert_same(tokenizer, HARD)
    for text in HARD:
        assert_same(tokenizer, [text])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=6))
def test_any_texts_are_cut_as_hugging_face_cuts_them(
    tokenizer: TextTokenizer, texts: list[str]
) -> None:
    assert_same(tokenizer, texts)


@given(st.lists(st.text("ab1-. (\n\té\u0301\u200b\x01中", max_size=30), max_size=6))
def test_mixtures_of_boundaries_are_cut_alike(tokenizer: TextTokenizer, texts: list[str]) -> None:
    assert_same(tokenizer, texts)


def test_a_full_cache_is_emptied_and_nothing_changes(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embre.tokenization.cached.MAX_WORDS", 3)
    for _ in range(2):
        assert_same(tokenizer, HARD)


def test_the_seed_of_the_hash_changes_hashes_and_no_piece(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first is FNV-1a's; the last gives all words that are made of the same letters one hash.
    seeds = [(0xCBF29CE484222325, 0x100000001B3), (1, 3), (2**64 - 1, 2**64 - 1), (0, 1)]
    texts = [*HARD, " ".join(f"w{n} gene{n % 7}kinase{n}" for n in range(3000))]
    whole, hashes = tokenizer.encode(texts), set()
    for seed in seeds:
        monkeypatch.setattr(
            "embre.tokenization.cached.random_seed",
            lambda seed=seed: np.array(seed, dtype=np.uint64),
        )
        seeded = CachedTokenizer(tokenizer)
        for _ in range(2):  # cut, then remembered
            found = seeded.encode(texts)
            for part in ("ids", "starts", "ends", "first"):
                np.testing.assert_array_equal(getattr(found, part), getattr(whole, part))
        hashes.add(seeded._table.hashes.tobytes())
    assert len(hashes) == len(seeds)


def test_each_tokenizer_has_a_seed_of_its_own(tokenizer: TextTokenizer) -> None:
    seeds = [CachedTokenizer(tokenizer)._seed for _ in range(2)]
    assert seeds[0].tolist() != seeds[1].tolist()
    assert all(multiplier % 2 == 1 for _, multiplier in seeds)


def test_a_tokenizer_that_is_not_berts_is_asked_for_whole_texts(tokenizer: TextTokenizer) -> None:
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    found = CachedTokenizer(replace(tokenizer, backend=backend)).encode(["the gene-x", "braf"])
    wanted = [backend.encode(text, add_special_tokens=False).ids for text in ("the gene-x", "braf")]
    assert found.ids.tolist() == wanted[0] + wanted[1]
    assert found.first.tolist() == [0, len(wanted[0]), len(wanted[0]) + len(wanted[1])]


def test_a_text_that_spells_a_special_token_has_none(tokenizer: TextTokenizer) -> None:
    found = cached(tokenizer).encode(["a [MASK] b"])
    assert tokenizer.special.mask not in found.ids


def test_every_real_line_is_cut_as_hugging_face_cuts_it(corpora: Path) -> None:
    tokenizer = load_tokenizer(corpora / "pubmedbert")
    names = ["pubtator_gold/NLMchem_Test.PubTator", "biored/Train.PubTator"]
    for name in names:
        lines = (corpora / name).read_text(encoding="utf-8").split("\n")
        texts = [line for line in lines if "|t|" in line or "|a|" in line]
        cached_pieces, whole = cached(tokenizer).encode(texts), tokenizer.encode(texts)
        for part in ("ids", "starts", "ends", "first"):
            np.testing.assert_array_equal(getattr(cached_pieces, part), getattr(whole, part))
