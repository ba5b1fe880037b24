"""The benchmark of sharding measures what it says: sound dumps, and baselines that do the work."""

import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import shards
from dump_files import write_text, write_xml
from made_up_dump import make_documents
from made_up_tokenizer import save_made_up_tokenizer
from naive import READERS, load_tokenizer, run_naive
from rich.console import Console
from same import check_same, read_naive
from shards import Bench, Plan

from embre.corpora import read_documents
from embre.tally import Tally

ROOT = Path(__file__).resolve().parents[2]
NUM_DOCUMENTS = 200


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same documents as text and as XML, some with characters beyond ASCII."""
    folder = tmp_path_factory.mktemp("dump")
    write_text(folder, NUM_DOCUMENTS, seed=3)
    write_xml(folder, NUM_DOCUMENTS, seed=3)
    return folder


def test_documents_depend_on_the_seed_alone() -> None:
    few, many = list(make_documents(30, 1)), list(islice(make_documents(900, 1), 30))
    assert few == many
    assert few != list(make_documents(30, 2))


def test_no_two_documents_are_alike() -> None:
    docs = list(make_documents(1200, 1))
    assert len({doc.doc_id for doc in docs}) == len({doc.text for doc in docs}) == 1200


def test_mentions_are_where_they_claim_to_be() -> None:
    docs = list(make_documents(300, 1, foreign_share=0.5))
    for doc in docs:
        assert doc.text[doc.title_end - 1 : doc.title_end + 1] in (". ", ".\u00a0")
        assert all(doc.text[start:end] == surface for start, end, surface, _ in doc.mentions)
        assert all(a[1] <= b[0] for a, b in zip(doc.mentions, doc.mentions[1:], strict=False))
    assert 0.4 < np.mean([not doc.text.isascii() for doc in docs]) < 0.6


def test_documents_are_like_biored() -> None:
    docs = list(make_documents(500, 0))
    assert 1600 < np.mean([len(doc.text) for doc in docs]) < 1740
    assert 32 < np.mean([len(doc.mentions) for doc in docs]) < 36
    assert 11 < np.mean([len({role for *_, role in doc.mentions}) for doc in docs]) < 13


def test_new_words_keep_coming() -> None:
    """Heaps: on real abstracts twice the text has 1.43 to 1.6 times as many different words."""
    seen: set[str] = set()
    sizes = []
    for number, doc in enumerate(make_documents(2000, 0), start=1):
        seen.update(re.findall(r"\w+", doc.text.lower()))
        if number in (1000, 2000):
            sizes.append(len(seen))
    assert 1.4 < sizes[1] / sizes[0] < 1.65


def test_text_and_xml_are_the_same_documents(dump: Path) -> None:
    tallies = Tally(), Tally()
    text = list(read_documents(dump / "0.PubTator.gz", tallies[0]))
    xml = list(read_documents(dump / "0.BioCXML.tar.gz", tallies[1]))
    assert text == xml and len(text) == NUM_DOCUMENTS
    assert text[0].mentions and text[0].relations and text[0].relations[0].probability
    lost = set(tallies[0].counts) | set(tallies[1].counts)
    assert lost <= {"relation/unknown_concept"}, "only relations of `-` name no concept"


def test_the_size_of_files_can_be_chosen(tmp_path: Path) -> None:
    paths = write_text(tmp_path, 25, seed=3, num_files=3)
    ids = [doc.doc_id for path in paths for doc in read_documents(path, Tally())]
    assert len(paths) == 3 and ids == [str(10_000_001 + index) for index in range(25)]


def test_the_baselines_agree(dump: Path, tmp_path: Path) -> None:
    save_made_up_tokenizer(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    results = []
    for reader in READERS:
        name = "0.PubTator.gz" if reader == "text" else "0.BioCXML.tar.gz"
        out = tmp_path / reader
        assert run_naive(reader, [str(dump / name)], tokenizer, out) == NUM_DOCUMENTS
        results.append(read_naive(out))
    assert len(results[0]) == NUM_DOCUMENTS
    assert results[0] == results[1] == results[2]
    tokens, mentions = results[0]["10000001"]
    assert len(tokens) > 100 and len(mentions) > 2


def shard(dump: Path, out: Path, tokenizer: Path) -> None:
    command = [sys.executable, "tools/shard_pubtator.py", dump / "0.PubTator.gz", "--out", out]
    subprocess.run([*command, "--tokenizer", tokenizer], cwd=ROOT, check=True)


@pytest.mark.slow
def test_ours_says_the_same_and_a_difference_is_found(dump: Path, tmp_path: Path) -> None:
    save_made_up_tokenizer(tmp_path / "tokenizer")
    shard(dump, tmp_path / "ours", tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    run_naive("text", [str(dump / "0.PubTator.gz")], tokenizer, tmp_path / "naive")
    assert check_same(tmp_path / "naive", tmp_path / "ours") == NUM_DOCUMENTS

    write_text(tmp_path / "other", NUM_DOCUMENTS, seed=4)
    run_naive("text", [str(tmp_path / "other/0.PubTator.gz")], tokenizer, tmp_path / "else")
    with pytest.raises(AssertionError, match="document 10000001 has other tokens"):
        check_same(tmp_path / "else", tmp_path / "ours")


@pytest.mark.slow
def test_the_benchmark_measures_all_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(1, 30, 60, 40, [50], [1])
    monkeypatch.setattr(shards, "QUICK", plan)  # which starts each command once
    result = Bench(tmp_path, None, plan, Console(quiet=True)).run(plan.sizes)
    assert json.loads(json.dumps(result)) == result
    assert result["text_ratio"] > 0 and result["xml_ratio"] > 0
    assert result["read_docs_per_s"] > 1000
    assert result["text"]["documents_compared"] == result["xml"]["documents_compared"] == 30
    assert result["linear"][0]["documents"] == 50
