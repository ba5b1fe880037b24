"""PubTator text: its quirks, and that what is written reads back the same."""

import io
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embre.corpora import pubtator, pubtator_write, read_documents
from embre.corpora.biored import SCHEMA
from embre.corpora.raw import Chunk
from embre.document import Concept, Document, Relation
from embre.tally import Tally
from tests.corpora.from_bytes import read_bytes

SMALL = """\
## a comment
7|t|BRAF | V600E in melanoma
7|a|Trametinib helps.
7\t0\t4\tBRAF\tGene\t673
7\t7\t12\tV600E\tSequenceVariant\tp|SUB|V|600|E
7\t16\t24\tmelanoma\tDisease\tMESH:D008545
7\t25\t35\tTrametinib\tChemical\tMESH:C560077
7\tAssociation\t673\tMESH:D008545
7\tNegative_Correlation\tMESH:C560077\tMESH:D008545\tNovel
7\tAssociation\tp|SUB|V|600|E\tD008545\tNo\t0.9731

"""


def read(text: str | bytes, tally: Tally | None = None) -> list[Document]:
    data = text.encode() if isinstance(text, str) else text
    return read_bytes("pubtator", data, tally)


def write(documents: list[Document]) -> str:
    with TemporaryDirectory() as folder:
        pubtator_write.write_pubtator(f"{folder}/out", documents)
        return Path(f"{folder}/out").read_bytes().decode()


def only_loss(text: str | bytes) -> str:
    tally = Tally()
    read(text, tally)
    assert tally.counts.total() == 1, tally.lines()
    (reason,) = tally.counts
    return reason


def test_a_document_is_read():
    (doc,) = read(SMALL)
    assert doc.doc_id == doc.pmid == "7"
    assert doc.text == "BRAF | V600E in melanoma Trametinib helps."
    assert [passage.kind for passage in doc.passages] == ["title", "abstract"]
    assert [doc.text[mention.start : mention.end] for mention in doc.mentions] == [
        mention.text for mention in doc.mentions
    ]


def test_a_pmc_number_is_one_however_it_is_written() -> None:
    for doc_id in ("PMC12", "pmc12"):
        chunk = Chunk("a", "pubtator", 1, SMALL.replace("7|", f"{doc_id}|").encode())
        (raw,) = pubtator.read_chunk(chunk, Tally())
        # The id is as its lines have it: a copy with other relations finds them by it.
        assert (raw.doc_id, raw.pmid, raw.pmcid) == (doc_id, None, "PMC12")


def test_relation_lines_have_four_five_or_six_columns():
    melanoma, variant = Concept("Disease", "D008545"), Concept("Variant", "p|SUB|V|600|E")
    plain, novel, predicted = read(SMALL)[0].relations
    ids = ("673", "MESH:D008545")
    assert plain == Relation(Concept("Gene", "673"), melanoma, "Association", source_ids=ids)
    assert novel.novel is True
    ids = ("p|SUB|V|600|E", "D008545")
    assert predicted == Relation(variant, melanoma, "Association", False, 0.9731, ids)


def test_windows_line_ends_and_a_byte_order_mark_change_nothing():
    windows = b"\xef\xbb\xbf" + SMALL[len("## a comment\n") :].replace("\n", "\r\n").encode()
    assert read(windows) == read(SMALL)


def test_a_mention_line_may_lack_its_identifier_or_name_its_parts():
    parts = "2\t0\t18\tvisual or auditory\tDisease\tD014786|D006311\tvisual|auditory\n"
    (doc,) = read("2|t|visual or auditory\n2|a|\n" + parts + "2\t0\t6\tvisual\tDisease\n")
    assert [len(mention.concepts) for mention in doc.mentions] == [0, 2]


def test_an_empty_abstract_is_a_passage_without_text():
    (doc,) = read("2|t|BRAF\n2|a|\n")
    assert doc.text == "BRAF " and doc.passages[1].start == doc.passages[1].end == 5


def test_a_new_title_begins_a_document_even_without_a_blank_line():
    assert [doc.doc_id for doc in read("1|t|a\n1|a|b\n2|t|c\n2|a|d\n2|t|again\n")] == [
        "1",
        "2",
        "2",
    ]


def test_transliterated_text_keeps_its_mention():
    (doc,) = read("2|t|a-ketoglutarate\n2\t0\t15\tα‑ketoglutarate\tChemical\tMESH:D007656\n")
    assert doc.mentions[0].text == "α‑ketoglutarate"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2\t20\t40\tBRAF\tGene\t673", "mention/past_the_text"),
        ("2\t-1\t4\tBRAF\tGene\t673", "mention/past_the_text"),
        ("2\t2\t6\tBRAF\tGene\t673", "mention/offset_mismatch"),
        ("2\t3\t3\t\tGene\t673", "mention/empty_span"),
        ("2\t0\t4\tBRAF", "line/unreadable"),
        ("2\t0\t" + "4" * 9999 + "\tBRAF\tGene\t673\t", "line/unreadable"),
        ("2\tTranslation 7488T/C\tHis-to-Arg", "line/unreadable"),
        ("3\t0\t4\tBRAF\tGene\t673", "line/other_document"),
        ("2|a|A second abstract", "line/second_abstract"),
        ("2\tAssociation\t673\t999\tNovel", "relation/unknown_concept"),
        (b"2\t0\t4\tBR\xffF\tGene\t673", "line/unreadable"),
    ],
)
def test_a_broken_line_is_lost_alone_and_counted(line, reason):
    line = line if isinstance(line, bytes) else line.encode()
    good = b"2|t|BRAF in melanoma\n2|a|Yes.\n2\t0\t4\tBRAF\tGene\t673\n"
    assert only_loss(good + line + b"\n") == reason
    assert read(good + line + b"\n") == read(good)


@pytest.mark.parametrize("damage", [b"\0", b"\xff"])
def test_a_document_with_damaged_text_is_lost_alone(damage):
    tally = Tally()
    bad = SMALL.encode().replace(b"7\t", b"8\t").replace(b"7|", b"8|").replace(b"V600E in", damage)
    assert read(SMALL.encode() + bad + SMALL.encode(), tally) == read(SMALL * 2)
    assert tally.counts == {"document/unreadable": 1}
    assert tally.examples["document/unreadable"][0].startswith("small:13#8: ")


def test_lines_are_counted_over_all_chunks():
    tally = Tally()
    text = SMALL * 50 + "7\tno document\n"
    assert len(read_bytes("pubtator", text.encode(), tally, chunk_bytes=100)) == 50
    assert tally.examples["line/no_document"][0].startswith("small:551: ")


def test_a_copy_keeps_what_the_reader_could_not_read():
    good = b"2|t|BRAF MEK\n2|a|\n2\t0\t4\tBRAF\tGene\t673\n2\t5\t8\tMEK\tGene\t5609\n\n"
    bad = b"3|t|BR\xffF\n3|a|\n3\tBind\t1\t2\n\n"
    (doc,) = read(bad + good)
    relation = Relation(*doc.mentions_by_concept(), type="Bind", novel=True, probability=0.5)
    copy = io.BytesIO()
    documents = iter([replace(doc, relations=(relation,))])
    pubtator_write.copy_with_relations(io.BytesIO(bad + good), copy, documents)
    assert copy.getvalue() == bad + good[:-1] + b"2\tBind\t673\t5609\tNovel\t0.5000\n\n"


def copied(data: bytes, relations: int) -> bytes:
    """A copy with so many relations (0 or 1) in each document."""
    docs, copy = read(data), io.BytesIO()
    found = (
        replace(d, relations=(Relation(*d.mentions_by_concept(), "Bind", True, 0.5),) * relations)
        for d in docs
    )
    pubtator_write.copy_with_relations(io.BytesIO(data), copy, found)
    return copy.getvalue()


@pytest.mark.parametrize(
    ("line", "stays"),
    [
        (b"2\t 0\t4\tBRAF\tGene\t673", True),
        (b"2\t+0\t4\tBRAF\tGene\t673", True),
        (b"2\t0_0\t4\tBRAF\tGene\t673", True),
        ("2\t٠\t4\tBRAF\tGene\t673".encode(), True),
        (b"2\t0\tx\tBRAF\tGene\t673", True),
        (b"3\tBind\t673\t5609", True),
        (b"## Bind\tof\t673\t5609", True),
        (b"2\tBind\t673\t\xff", True),
        (b"2\tBind\t673", True),
        (b"2\tBind\t673\t5609", False),
        (b" 2\tBind\t673\t5609\tNovel", False),
        (b"2\t--1\t673\t5609", False),
        (b"2\tBind\t673\t999\tNovel\t0.5", False),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_copy_loses_the_lines_that_the_reader_takes_for_relations_alone(line, stays, end):
    lines = [b"2|t|BRAF MEK", b"2|a|", b"2\t0\t4\tBRAF\tGene\t673", b"2\t5\t8\tMEK\tGene\t5609"]
    bare = b"\xef\xbb\xbf" + end.join(lines)
    given = bare + end + line + end * 2 + bare[3:].replace(b"2|", b"4|").replace(b"2\t", b"4\t")
    assert copied(given, 0) == (given if stays else given.replace(line + end, b"", 1))
    again = copied(given, 1)
    new = b"2\tBind\t673\t5609\tNovel\t0.5000" + end
    assert again.count(new) == again.count(end + b"4" + new[1:]) == 1
    assert copied(again, 0).rstrip() == copied(given, 0)


def test_a_copy_of_other_documents_is_refused():
    (doc,) = read(SMALL)
    with pytest.raises(OSError, match="changed while it was read"):
        pubtator_write.copy_with_relations(io.BytesIO(b"8|t|x\n"), io.BytesIO(), iter([doc]))


def test_a_repeated_mention_is_kept_once():
    line = "2\t0\t4\tBRAF\tGene\t673\n"
    assert only_loss("2|t|BRAF\n" + line + line) == "mention/duplicate"


def test_a_line_before_any_title_is_counted():
    assert only_loss("2\t0\t4\tBRAF\tGene\t673\n2|t|BRAF\n") == "line/no_document"


def test_a_bare_number_means_the_gene_before_the_species():
    for order in [(0, 1), (1, 0)]:
        lines = ["2\t0\t4\tABCD\tGene\t3906\n", "2\t5\t9\tbean\tSpecies\t3906\n"]
        text = "2|t|ABCD bean\n" + "".join(lines[at] for at in order)
        (doc,) = read(text + "2\tAssociation\t3906\t3906\n")
        assert doc.relations[0].head == Concept("Gene", "3906")


def test_a_predicted_relation_is_written_as_the_document_spells_it():
    (doc,) = read("2|t|BRAF MEK\n2\t0\t4\tBRAF\tGene\t673(Tax:9606)\n2\t5\t8\tMEK\tGene\t5609\n")
    head, tail = doc.mentions_by_concept()
    predicted = Relation(head, tail, "Bind", novel=True, probability=0.97312)
    written = write([Document(doc.doc_id, doc.text, doc.passages, doc.mentions, (predicted,))])
    assert "2\tBind\t673(Tax:9606)\t5609\tNovel\t0.9731\n" in written


def test_tabs_and_line_breaks_of_another_format_do_not_cut_a_line():
    (doc,) = read("2|t|BRAF MEK\n2\t0\t4\tBRAF\tGene\t673\n2\t5\t8\tMEK\tGene\t5609\n")
    odd = [replace(m, source_identifier=f"\n {m.source_identifier}\t") for m in doc.mentions]
    relation = Relation(*doc.mentions_by_concept(), "Bind\n", source_ids=("673", "\t5609"))
    (again,) = read(write([replace(doc, mentions=tuple(odd), relations=(relation,))]))
    assert [m.concepts for m in again.mentions] == [m.concepts for m in doc.mentions]
    assert again.relations[0].pair == relation.pair


_words = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), max_size=40)
_names = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r\t\0"), min_size=1, max_size=8
)


@given(title=_words, abstract=st.one_of(st.none(), _words), names=st.lists(_names, max_size=4))
def test_written_and_read_again_a_document_is_the_same(title, abstract, names):
    lines, start = [f"9|t|{''.join(names)}{title}"], 0
    if abstract is not None:
        lines.append(f"9|a|{abstract}")
    for at, name in enumerate(names):
        end = start + len(name)
        lines.append(f"9\t{start}\t{end}\t{name}\tGene\t{at + 1}")
        start = end
    if len(names) > 1:
        lines.append("9\tBind\t1\t2\tNone\t0.5000")
    documents = read("\n".join(lines) + "\n\n")
    assert len(documents[0].mentions) == len(names)
    assert read(write(documents)) == documents


@pytest.mark.parametrize(
    ("name", "docs", "mentions", "relations", "candidates", "positives"),
    [("Train", 400, 13_351, 4_178, 21_755, 4_174), ("Dev", 100, 3_533, 1_162, 6_334, 1_161)],
)
def test_biored_counts(corpora, name, docs, mentions, relations, candidates, positives):
    tally = Tally()
    documents = list(read_documents(corpora / "biored" / f"{name}.PubTator", tally))
    pairs = [set(SCHEMA.candidates(doc)) for doc in documents]
    gold = [{relation.pair for relation in doc.relations} for doc in documents]
    assert not tally.counts
    assert len(documents) == docs
    assert sum(len(doc.mentions) for doc in documents) == mentions
    assert sum(len(doc.relations) for doc in documents) == relations
    assert sum(map(len, pairs)) == candidates
    assert sum(len(a & b) for a, b in zip(pairs, gold, strict=True)) == positives


def test_biored_written_and_read_again_is_the_same(corpora):
    documents = list(read_documents(corpora / "biored" / "Dev.PubTator", Tally()))
    assert read(write(documents)) == documents
