"""Pieces of one article become one document, whose mentions are where its text says."""

import json
import time
from pathlib import Path

import msgspec
import pytest

from embre.corpora import read_chunks, read_raw
from embre.corpora.assemble import check
from embre.corpora.raw import CheckedDocument, RawMention
from embre.corpora.sources import Watch
from embre.document import Passage
from embre.sharding.inputs import Input
from embre.sharding.joining import join_pieces
from embre.sharding.reading import read_parts
from embre.sharding.tasks import TaskSettings, encode_part
from embre.sharding.work_folder import WorkFolder
from embre.tally import Tally
from tests.tiny import tiny_tokenizer


def piece(text: str, word: str = "", doc_id: str = "7", file: str = "a") -> CheckedDocument:
    """A piece with a title of its first word, an abstract of the rest, and a mention of a word."""
    middle, start = text.index(" "), text.find(word) if word else -1
    passages = (Passage(0, middle, "title"), Passage(middle + 1, len(text), "abstract", "INTRO"))
    mentions = [RawMention(start, start + len(word), word, "Gene", "673", 1)] * (start >= 0)
    return CheckedDocument(doc_id, doc_id, None, text, passages, mentions, file)


def joined(*pieces: CheckedDocument) -> tuple[list[CheckedDocument], Tally]:
    tally = Tally()
    return list(join_pieces(pieces, tally)), tally


def test_pieces_that_follow_each_other_are_one_document_and_are_counted() -> None:
    (doc,), tally = joined(
        piece("One BRAF here.", "BRAF"), piece("Two none."), piece("Three KRAS.", "KRAS")
    )
    assert doc.text == "One BRAF here. Two none. Three KRAS."
    assert (doc.doc_id, doc.pmid, doc.file) == ("7", "7", "a")
    assert [doc.text[m.start : m.end] for m in doc.mentions] == ["BRAF", "KRAS"]
    assert tally.counts == {"repaired/piece_joined": 2}
    assert tally.examples["repaired/piece_joined"] == ["a#7"] * 2


def test_the_first_title_stays_one_and_every_passage_keeps_its_text() -> None:
    (doc,), _ = joined(piece("One BRAF here."), piece("Two KRAS."))
    kinds = [(p.kind, p.section, doc.text[p.start : p.end]) for p in doc.passages]
    assert kinds == [
        ("title", "", "One"),
        ("abstract", "INTRO", "BRAF here."),
        ("paragraph", "", "Two"),
        ("abstract", "INTRO", "KRAS."),
    ]


@pytest.mark.parametrize(
    "docs",
    [
        [piece("One a."), piece("Two b.", doc_id="8")],
        [piece("One a."), piece("Two b.", doc_id="8"), piece("Three c.")],
        [piece("One a."), piece("Two b.", file="b")],
        [piece("One a."), piece("One a.")],
        [],
    ],
    ids=["another id", "another between", "another file", "a copy", "nothing"],
)
def test_what_is_no_piece_stays_as_it_is(docs: list[CheckedDocument]) -> None:
    found, tally = joined(*docs)
    assert found == docs and not tally.counts


def test_a_copy_among_pieces_stays_a_document_of_its_own() -> None:
    found, tally = joined(piece("One a."), piece("Two b."), piece("One a."))
    assert sorted(doc.text for doc in found) == ["One a.", "One a. Two b."]
    assert tally.counts == {"repaired/piece_joined": 1}


def test_a_file_with_one_id_for_all_blocks_takes_no_hours() -> None:
    started = time.process_time()
    (doc,), _ = joined(*(piece(f"Text {number:6}") for number in range(20_000)))
    assert len(doc.passages) == 40_000 and time.process_time() - started < 5


def test_the_blocks_of_nlm_chem_are_fifty_articles(corpora: Path) -> None:
    tally, num_mentions = Tally(), 0
    source = corpora / "pubtator_gold" / "NLMchem_Test.PubTator"
    docs = [check(r, tally) for chunk in read_chunks(source, tally) for r in read_raw(chunk, tally)]
    articles = list(join_pieces(docs, tally))
    assert len(docs) == 3428 and len({doc.doc_id for doc in articles}) == 50
    assert tally.counts["repaired/piece_joined"] == len(docs) - len(articles) == 3300
    for doc in articles:
        assert [p.kind for p in doc.passages].count("title") == 1
        assert all(doc.text[m.start : m.end] == m.text for m in doc.mentions if m.text.isascii())
        num_mentions += len(doc.mentions)
    longest = sorted(len(doc.passages) for doc in articles)[-50:]
    assert longest[0] > 50 and sum(longest) > 0.97 * 2 * len(docs)
    assert num_mentions == sum(len(doc.mentions) for doc in docs)


ONE, TWO = (
    b"7|t|the gene\n7|a|in mice\n",
    b"7|t|braf causes\n7|a|melanoma\n7\t0\t4\tbraf\tGene\t1\n",
)
OTHER, LAST = b"8|t|a study\n8|a|of the gene\n", b"9|t|aspirin\n9|a|treats\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    return folder


def num_encoded(folder: Path, tokenizer: Path, data: bytes) -> tuple[int, int]:
    """How many documents a run keeps of a file, and how many pieces it joined."""
    path, work = folder / "in.PubTator", WorkFolder(folder / "out")
    path.write_bytes(data)
    work.folder.mkdir(parents=True)
    task_settings = TaskSettings(str(tokenizer), [], 0.0, 256)
    work.task_settings.write_bytes(msgspec.json.encode(task_settings))
    source = Input(str(path), len(data), 0.0, "in")
    names = []
    for part in read_parts(source, 1 << 20, Tally(), Watch()):
        encode_part(work, "run", part.name, part.chunks)
        names.append(part.name)
    records = [work.read_part_record(name) for name in names]
    joined = sum(record.dropped.get("repaired/piece_joined", 0) for record in records)
    return sum(record.documents for record in records), joined


def test_versions_of_an_article_in_bioc_are_no_pieces(tmp_path: Path, tokenizer: Path) -> None:
    def passage(offset: int, kind: str, text: str) -> dict:
        return {"offset": offset, "infons": {"type": kind}, "text": text, "annotations": []}

    whole = [passage(0, "title", "the gene"), passage(9, "abstract", "causes melanoma")]
    versions = [{"id": "7", "passages": some} for some in (whole[:1], whole)]
    data = json.dumps({"documents": versions}).encode()
    assert num_encoded(tmp_path, tokenizer, data) == (2, 0)


@pytest.mark.parametrize(
    "blocks", [[ONE, TWO], [OTHER, ONE, TWO, LAST], [ONE, b"\n" + TWO], [OTHER, ONE + TWO]]
)
def test_a_run_keeps_the_whole_article(
    tmp_path: Path, tokenizer: Path, blocks: list[bytes]
) -> None:
    others = len({OTHER, LAST} & {*blocks})
    data = b"\n".join([*blocks, b""])
    assert num_encoded(tmp_path, tokenizer, data) == (1 + others, 1)
