"""What is read all at once is what the careful reader reads, document by document."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embre.corpora import FORMATS, read_raw
from embre.corpora.assemble import check
from embre.corpora.pubtator_plain import read_plain
from embre.corpora.raw import CheckedDocument, Chunk, PlainDocuments, RawMention
from embre.corpora.window import Window
from embre.tally import Tally

FIRST = b"1|t|BRAF in mice\n1|a|Yes.\n1\t0\t4\tBRAF\tGene\t673\n1\t8\t12\tmice\tSpecies\t10090\n\n"
LAST = b"3|t|KRAS\n3|a|In man.\n3\t8\t11\tman\tSpecies\t9606\n\n"
HEAD = b"2|t|MEK | ERK\n2|a|Both, and MEK.\n"
MEK, ERK = b"2\t0\t3\tMEK\tGene\t5609\n", b"2\t6\t9\tERK\tGene\t5594\n"


def read_careful(chunk: Chunk) -> tuple[list[CheckedDocument], Tally]:
    tally = Tally()
    return [check(raw, tally) for raw in read_raw(chunk, tally)], tally


def mentions_of(plain: PlainDocuments) -> list[list[RawMention]]:
    mentions: list[list[RawMention]] = [[] for _ in plain.docs]
    columns = (plain.doc_of, plain.starts, plain.ends, plain.surfaces, plain.spellings)
    for number, start, end, surface, spelling in zip(*(c.tolist() for c in columns), strict=True):
        mentions[number].append(RawMention(start, end, surface, *spelling.split("\t", 1), place=0))
    return mentions


def read_both_ways(chunk: Chunk) -> tuple[list[CheckedDocument], list[CheckedDocument], Tally]:
    plain, rest = read_plain(chunk)
    assert (np.diff(plain.doc_of) >= 0).all()
    docs = [
        doc._replace(mentions=mentions)
        for doc, mentions in zip(plain.docs, mentions_of(plain), strict=True)
    ]
    tally = Tally()
    return docs, [check(raw, tally) for part in rest for raw in read_raw(part, tally)], tally


def without_lines(docs: list[CheckedDocument]) -> list[CheckedDocument]:
    """In an order of their own; `place` is for the tally, which is compared by itself."""
    bare = [doc._replace(mentions=[m._replace(place=0) for m in doc.mentions]) for doc in docs]
    return sorted(bare, key=lambda doc: (doc.doc_id, doc.text, doc.mentions))


def assert_same(data: bytes, line: int = 1) -> list[str]:
    """The ids that were read all at once, after both ways gave the same."""
    chunk = Chunk("small", "pubtator", line, data)
    careful, wanted = read_careful(chunk)
    plain, others, tally = read_both_ways(chunk)
    assert without_lines(plain + others) == without_lines(careful)
    assert (tally.counts, tally.examples) == (wanted.counts, wanted.examples)
    return [doc.doc_id for doc in plain]


USUAL = {
    "no mention": HEAD,
    "mentions": HEAD + MEK + ERK + b"2\t20\t23\tMEK\tGene\t5609\n",
    "unsorted mentions": HEAD + b"2\t20\t23\tMEK\tGene\t5609\n" + ERK + MEK,
    "overlapping mentions": HEAD + b"2\t0\t9\tMEK | ERK\tGene\t1\n" + MEK + ERK,
    "a mention to the end of the title": HEAD + ERK,
    "a mention to the end of the abstract": HEAD + b"2\t20\t24\tMEK.\tGene\t5609\n",
    "no identifier": HEAD + b"2\t0\t3\tMEK\tGene\t\n",
    "relation of four columns": HEAD + MEK + ERK + b"2\tBind\t5609\t5594\n",
    "relation of five": HEAD + MEK + b"2\tBind\t5609\t5594\tNovel\n" + ERK,
    "relation of six": HEAD + b"2\tBind\t5609\t5594\tNo\t0.5\n" + MEK,
    "nothing written": b"2|t|\n2|a|\n",
    "no title": b"2|t|\n2|a|MEK\n2\t1\t4\tMEK\tGene\t5609\n",
    "marks in the text": b"2|t|2|t|MEK\n2|a|2|a|\n2\t4\t7\tMEK\tGene\t5609\n",
    "two blank lines": HEAD + MEK + b"\n",
    "leading zeros": b"02|t|MEK\n02|a|\n02\t0\t3\tMEK\tGene\t5609\n",
    "control characters": b"2|t|ME\x0bK\x7f\n2|a|\x1c\n2\t0\t4\tME\x0bK\tGene\t5609\n",
}


@pytest.mark.parametrize("block", USUAL.values(), ids=USUAL)
def test_a_plain_document_is_read_at_once(block: bytes) -> None:
    middle = "02" if block.startswith(b"02") else "2"
    assert assert_same(FIRST + block + b"\n" + LAST) == ["1", middle, "3"]


SPLIT = b"2\t3\t6\t | \tGene\t5609\n"
DEVIATIONS = {
    "letters in the title": "2|t|MEK β\n2|a|\n2\t0\t3\tMEK\tGene\t5609\n".encode(),
    "letters in the abstract": "2|t|MEK\n2|a|β MEK\n2\t6\t9\tMEK\tGene\t5609\n".encode(),
    "letters in a surface": HEAD + "2\t0\t3\tΜEK\tGene\t5609\n".encode(),
    "letters in an identifier": HEAD + "2\t0\t3\tMEK\tGene\tβ\n".encode(),
    "no UTF-8 in the text": b"2|t|MEK \xff\n2|a|\n",
    "no UTF-8 in a mention": HEAD + b"2\t0\t3\tM\xffK\tGene\t5609\n" + ERK,
    "windows": (HEAD + MEK + ERK).replace(b"\n", b"\r\n"),
    "one carriage return": HEAD + MEK.replace(b"\n", b"\r\n") + ERK,
    "NUL in the text": b"2|t|MEK\0\n2|a|\n",
    "NUL in a mention": HEAD + b"2\t0\t3\tM\0K\tGene\t5609\n" + ERK,
    "comment before the title": b"## by hand\n" + HEAD + MEK,
    "comment inside": HEAD + b"## by hand\n" + MEK,
    "comment with tabs": HEAD + b"##\t0\t3\tMEK\tGene\t5609\n",
    "relation that begins with a digit": HEAD + MEK + ERK + b"2\t5HT\t5609\t5594\n",
    "relation of six that begins with a digit": HEAD + MEK + b"2\t5HT\t5609\t5594\tNo\t0.5\n",
    "relation of seven columns": HEAD + MEK + b"2\tBind\t5609\t5594\tNo\t0.5\tx\n",
    "relation of three columns": HEAD + b"2\tBind\t5609\n",
    "relation of another document": HEAD + MEK + b"9\tBind\t5609\t5594\n",
    "mention of another document": HEAD + MEK + b"9\t0\t3\tMEK\tGene\t5609\n",
    "an id that is spelt otherwise": HEAD + b"02\t0\t3\tMEK\tGene\t5609\n",
    "an id with a blank": HEAD + b"2 \t0\t3\tMEK\tGene\t5609\n",
    "five columns": HEAD + b"2\t0\t3\tMEK\tGene\n",
    "seven columns": HEAD + b"2\t0\t3\tMEK\tGene\t5609\tMEK\n",
    "plus": HEAD + b"2\t+0\t3\tMEK\tGene\t5609\n",
    "blank before an offset": HEAD + b"2\t 0\t3 \tMEK\tGene\t5609\n",
    "underscore": HEAD + b"2\t2_0\t2_3\tMEK\tGene\t5609\n",
    "no offset": HEAD + b"2\t\t3\tMEK\tGene\t5609\n",
    "ten digits": HEAD + b"2\t0000000020\t23\tMEK\tGene\t5609\n",
    "an offset beyond 64 bits": HEAD + MEK + b"2\t0\t18446744073709551619\tMEK\tGene\t5609\n",
    "negative": HEAD + b"2\t-24\t-21\tMEK\tGene\t5609\n",
    "across title and abstract": HEAD + b"2\t6\t18\tERK Both, an\tGene\t5594\n",
    "the space between": HEAD + b"2\t9\t10\t \tGene\t5594\n",
    "from the space on": HEAD + b"2\t9\t14\t Both\tGene\t5594\n",
    "from the mark before the abstract on": HEAD + b"2\t9\t14\t|Both\tGene\t5594\n",
    "past the end": HEAD + b"2\t20\t25\tMEK. \tGene\t5609\n2\t99\t102\tMEK\tGene\t5609\n",
    "empty span": HEAD + b"2\t3\t3\t\tGene\t5609\n",
    "end before start": HEAD + b"2\t3\t0\tMEK\tGene\t5609\n",
    "another surface": HEAD + b"2\t0\t3\tERK\tGene\t5594\n",
    "another case": HEAD + b"2\t0\t3\tmek\tGene\t5609\n",
    "a surface of another length": HEAD + b"2\t0\t3\tMEK1\tGene\t5609\n" + ERK,
    "off by one": HEAD + b"2\t1\t4\tMEK\tGene\t5609\n2\t7\t10\tERK\tGene\t5594\n" + SPLIT,
    "the same mention again": HEAD + MEK + ERK + MEK,
    "two types in one place": HEAD + MEK + ERK + MEK.replace(b"Gene", b"Chemical"),
    "tab in the title": b"2|t|MEK\tERK\n2|a|\n2\t4\t7\tERK\tGene\t5594\n",
    "tab in the abstract": b"2|t|MEK\n2|a|\tERK\n2\t5\t8\tERK\tGene\t5594\n",
    "no abstract": b"2|t|MEK\n2\t0\t3\tMEK\tGene\t5609\n",
    "title alone": b"2|t|MEK\n",
    "abstract behind the mentions": b"2|t|MEK\n2\t0\t3\tMEK\tGene\t5609\n2|a|Yes.\n",
    "abstract before the title": b"2|a|Yes.\n2|t|MEK\n",
    "abstract of another document": b"2|t|MEK\n9|a|Yes.\n",
    "abstract of a longer id": b"2|t|MEK\n22|a|Yes.\n",
    "a second abstract": HEAD + b"2|a|Again.\n" + MEK,
    "mentions without a document": MEK + ERK,
    "words": b"nothing that anybody knows\n",
    "an id alone": HEAD + b"2\n",
    "a line of blanks": HEAD + b" \n" + MEK,
    "a word for an id": b"PMC2|t|MEK\nPMC2|a|\nPMC2\t0\t3\tMEK\tGene\t5609\n",
    "a long id": b"1234567890|t|MEK\n1234567890|a|\n1234567890\t0\t3\tMEK\tGene\t5609\n",
    "no id": b"|t|MEK\n|a|\n\t0\t3\tMEK\tGene\t5609\n",
    "an id with blanks around": b" 2|t|MEK\n 2|a|\n 2\t0\t3\tMEK\tGene\t5609\n",
}


@pytest.mark.parametrize("block", DEVIATIONS.values(), ids=DEVIATIONS)
def test_an_unusual_document_is_left_to_the_careful_reader_alone(block: bytes) -> None:
    assert assert_same(FIRST + block + b"\n" + LAST) == ["1", "3"]


def test_a_file_of_all_deviations_is_read_alike() -> None:
    blocks = [*USUAL.values(), *DEVIATIONS.values()]
    assert len(assert_same(b"\n".join([FIRST, *blocks, LAST]), line=1000)) < len(USUAL)
    assert assert_same(b"\n".join([FIRST, *blocks[::-1], LAST])[:-2])


def test_documents_without_a_blank_line_between_are_read_alike() -> None:
    two = HEAD + MEK + b"4|t|ERK\n4|a|\n4\t0\t3\tERK\tGene\t5594\n\n"
    assert assert_same(FIRST + two + LAST) == ["1", "3"]


def test_pieces_of_one_article_are_left_to_be_joined_unless_another_stands_between() -> None:
    assert assert_same(FIRST + FIRST + LAST) == ["3"]
    assert assert_same(FIRST + LAST + FIRST) == ["1", "3", "1"]
    assert assert_same(FIRST + b"1|t|Methods\n\n" + LAST) == ["3"]
    assert assert_same(LAST + FIRST + FIRST.replace(b"1|", b"01|").replace(b"1\t", b"01\t")) == [
        "3"
    ]


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n", b"\n\n\n\n"])
@pytest.mark.parametrize("start", [b"", b"\n", b"\n\n\n"])
def test_the_ends_of_a_chunk_may_be_anything(start: bytes, end: bytes) -> None:
    for block, found in ((b"", []), (b"x", []), (FIRST.strip(), ["1"]), (HEAD.strip(), ["2"])):
        assert assert_same(start + block + end, line=7) == found


def test_a_mention_may_stand_beyond_sixteen_million_characters() -> None:
    text = b"2|t|MEK\n2|a|" + b" " * (9 + (1 << 24)) + b"ERK\n"
    start = len("MEK ") + 9 + (1 << 24)
    lines = b"2\t0\t3\tMEK\tGene\t5609\n2\t%d\t%d\tERK\tGene\t5594\n\n" % (start, start + 3)
    assert assert_same(text + lines + LAST) == []  # the careful reader has no such limit


PLACES = b"\0\t\n\r |+-_09a#\x80\xc3"


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """A small file in which bytes are flipped, and lines and tabs come, go or are doubled."""
    blocks = [FIRST, HEAD + MEK + ERK + b"2\tBind\t5609\t5594\tNovel\n\n", LAST]
    lines = b"".join(draw(st.permutations(blocks))).split(b"\n")
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        line, place = lines[at], draw(st.integers(0, len(lines[at])))
        edits = [
            [],
            [line, line],
            [line, b""],
            [line[:place] + draw(st.sampled_from([*PLACES])).to_bytes() + line[place:]],
            [line[:place] + draw(st.binary(min_size=1, max_size=1)) + line[place + 1 :]],
            [line[:place] + line[place + 1 :]],
            [line, draw(st.sampled_from(b"".join(blocks).split(b"\n")))],
        ]
        lines[at : at + 1] = draw(st.sampled_from(edits))
        lines = lines or [b""]
    return b"\n".join(lines)


@settings(max_examples=200, deadline=None)
@given(edited(), st.integers(1, 99))
def test_whatever_is_edited_is_read_alike(data: bytes, line: int) -> None:
    assert_same(data, line)


def pubtator_chunks(corpora: Path, pattern: str, chunk_bytes: int) -> list[Chunk]:
    chunks = []
    for path in sorted(path for path in corpora.glob(pattern) if path.is_file()):
        with path.open("rb") as file:
            if FORMATS["pubtator"].sign.search(file.peek(1 << 16)):
                window = Window(file, path.name, Tally(), chunk_bytes)
                chunks += FORMATS["pubtator"].cut(window)
    return chunks


@pytest.mark.parametrize(
    ("pattern", "num_plain"),
    [
        ("biored/*", 500),
        ("bc5cdr/*", 890),
        ("pubtator_bulk/*", 500),
        ("pubtator3/*", 2),
        pytest.param("pubtator_gold/*", 3600, marks=pytest.mark.slow),
    ],
)
def test_real_files_are_read_alike(corpora: Path, pattern: str, num_plain: int) -> None:
    chunks = pubtator_chunks(corpora, pattern, 1 << 18)
    assert sum(len(assert_same(chunk.data, chunk.line)) for chunk in chunks) >= num_plain
