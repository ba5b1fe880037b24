"""The learnt tokenizer is the same whenever it is learnt, and knows every word of its corpus."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from embre.demo.corpus import make_corpus
from embre.tokenization.learnt import SPECIALS, choose_pieces, learn_tokenizer
from embre.tokenization.tokenizer import TextTokenizer, load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
NUM_TOKENS = 500
LEARN = """
import sys
from pathlib import Path
from embre.demo.corpus import make_corpus
from embre.tokenization.learnt import learn_tokenizer
learn_tokenizer((doc.text for doc in make_corpus(30, seed=2)), 500, Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("tokenizer")
    learn_tokenizer((doc.text for doc in make_corpus(30, seed=2)), NUM_TOKENS, found)
    return found


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> TextTokenizer:
    return load_tokenizer(folder)


def test_the_same_corpus_gives_the_same_file(folder: Path, tmp_path: Path) -> None:
    learn_tokenizer((doc.text for doc in make_corpus(30, seed=2)), NUM_TOKENS, tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_another_process_with_another_hash_seed_gives_the_same_file(
    folder: Path, tmp_path: Path
) -> None:
    env = {**os.environ, "PYTHONHASHSEED": "4711"}
    subprocess.run([sys.executable, "-c", LEARN, tmp_path], cwd=ROOT, env=env, check=True)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_every_text_comes_back_and_nothing_is_unknown(tokenizer: TextTokenizer) -> None:
    for doc in make_corpus(30, seed=2):
        encoding = tokenizer.backend.encode(doc.text, add_special_tokens=False)
        assert tokenizer.special.unk not in encoding.ids
        decoded = tokenizer.backend.decode(encoding.ids)
        assert "".join(decoded.split()) == "".join(doc.text.lower().split())


def test_the_vocabulary_has_the_size_asked_for(tokenizer: TextTokenizer) -> None:
    assert tokenizer.vocabulary == NUM_TOKENS
    specials = [tokenizer.backend.id_to_token(index) for index in range(len(SPECIALS))]
    assert specials == list(SPECIALS.values())


def test_frequent_words_are_whole_and_ties_go_by_the_alphabet() -> None:
    words = Counter({"gene": 9, "cell": 5, "cold": 5, "melanomas": 1})
    characters = {c for word in words for c in word}
    pieces = choose_pieces(words, 2 * len(characters) + 4)
    assert pieces[2 * len(characters) :][:2] == ["gene", "cell"]
    assert pieces == choose_pieces(Counter(dict(reversed(words.items()))), len(pieces))


def test_a_small_room_still_holds_every_character() -> None:
    pieces = choose_pieces(Counter({"braf": 3, "kras": 1}), 1)
    assert pieces == [*"abfkrs", *(f"##{c}" for c in "abfkrs")]
