"""Evaluation documents stay out: the shipped lists, what a fingerprint sees, lists of any kind."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from embre.corpora import read_documents, write_pubtator
from embre.corpora.assemble import as_checked
from embre.demo.corpus import make_corpus
from embre.document import Document, Passage
from embre.held_out import (
    MIN_LETTERS,
    SHIPPED,
    HoldOutList,
    document_ids,
    fingerprint,
    hold_out_lines,
    read_hold_out_list,
    read_lists,
)
from embre.sharding.shard import ShardSettings, shard
from embre.shards.shard_set import ShardSet
from embre.tally import Tally
from tests.bioc_json_files import write_bioc_json
from tests.corpora.test_read_documents import make_tar
from tests.sharding.test_shard import doc_ids, run_tool
from tools.hold_out_list import main

TITLE = "Hepatocyte nuclear factor-6: associations with MODY"
ABSTRACT = "The transcription factor HNF-6 is a regulator."


def article(title: str = TITLE, abstract: str = ABSTRACT, doc_id: str = "7") -> Document:
    passages = (
        Passage(0, len(title), "title"),
        Passage(len(title) + 1, len(title) + 1 + len(abstract), "abstract"),
    )
    return Document(doc_id, f"{title} {abstract}", passages, ())


def print_of(doc: Document) -> tuple[int, int]:
    return fingerprint(as_checked(doc))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_list_has_an_id_and_two_fingerprints_a_line(name: str) -> None:
    text = files("embre.held_out").joinpath(f"{name}.tsv").read_text()
    head, *lines = text.splitlines()
    assert head.startswith("# id, fingerprint of text, fingerprint of title")
    assert lines == sorted(set(lines))
    for doc_id, *prints in (line.split("\t") for line in lines):
        assert doc_id.isdecimal() and len(prints) in (0, 2)
        assert all(0 <= int(value, 16) < 2**64 for value in prints)
    found = read_hold_out_list(name)
    assert found.name == name and 0 not in found.prints
    assert found.ids == {line.split("\t")[0] for line in lines}


def test_the_shipped_lists_are_biored_dev_and_test_and_bc5cdr_dev(corpora: Path) -> None:
    biored, bc5cdr = (read_hold_out_list(name) for name in SHIPPED)
    test = read_hold_out_list(str(corpora / "biored" / "Test.pmids.txt"))
    dev = read_hold_out_list(str(corpora / "biored" / "Dev.PubTator"))
    cdr = read_hold_out_list(str(corpora / "bc5cdr" / "CDR_DevelopmentSet.PubTator.txt"))
    assert biored.ids == test.ids | dev.ids and len(biored.ids) == 200
    assert bc5cdr.ids == cdr.ids and len(bc5cdr.ids) == 500
    assert dev.prints <= biored.prints and cdr.prints == bc5cdr.prints


@pytest.mark.parametrize(
    ("name", "doc_id", "title"),
    [
        ("biored", "15096016", "Pallidal stimulation: an alternative to pallidotomy?"),
        (
            "bc5cdr",
            "6794356",
            "Tricuspid valve regurgitation and lithium carbonate toxicity in a newborn infant.",
        ),
        (
            "bc5cdr",
            "6504332",
            "Phenobarbital-induced dyskinesia in a neurologically-impaired child.",
        ),
    ],
)
def test_a_shipped_list_knows_its_documents_by_their_titles(
    name: str, doc_id: str, title: str
) -> None:
    """Another way to make fingerprints would let all of them in under other ids."""
    (line,) = (
        line.split("\t")
        for line in files("embre.held_out").joinpath(f"{name}.tsv").read_text().splitlines()
        if line.startswith(f"{doc_id}\t")
    )
    assert print_of(article(title=title.upper()))[1] == int(line[2], 16)
    assert read_hold_out_list(name).has(
        as_checked(article(title)), fingerprint(as_checked(article(title)))
    )


@pytest.mark.parametrize("shipped", [True, False])
def test_the_shard_tool_leaves_out_what_is_shipped_and_what_it_is_given(
    tmp_path: Path, shipped: bool
) -> None:
    docs = make_corpus(8, seed=1)
    known = [
        replace(docs[0], doc_id="14510914", pmid="14510914"),  # of BioRED Dev
        article(title="Phenobarbital-induced dyskinesia in a neurologically-impaired child."),
    ]
    mine = tmp_path / "mine.txt"
    mine.write_text(f"{docs[1].doc_id}\n")
    write_pubtator(tmp_path / "in.PubTator", [*docs[1:], *known])
    command = [tmp_path / "in.PubTator", "--out", tmp_path / "out", "--hold-out", mine]
    command += ["--vocabulary", 600, "--processes", 1]
    code, said = run_tool(*command, *([] if shipped else ["--no-shipped-hold-out"]))
    assert code == 0, said
    found = ShardSet.open(tmp_path / "out")
    left = [doc.doc_id for doc in (*docs[2:], *([] if shipped else known))]
    assert sorted(doc_ids(found, "train") + doc_ids(found, "validation")) == sorted(left)
    counted = {"biored": 1, "bc5cdr": 1, "mine.txt": 1} if shipped else {"mine.txt": 1}
    assert found.manifest.held_out == counted


def test_no_training_document_of_biored_is_on_a_shipped_list(corpora: Path) -> None:
    held = [read_hold_out_list(name) for name in SHIPPED[:1]]
    for doc in read_documents(corpora / "biored" / "Train.PubTator", Tally()):
        checked = as_checked(doc)
        assert not any(one.has(checked, fingerprint(checked)) for one in held)


@pytest.mark.parametrize(
    "same",
    [
        article(TITLE.upper(), ABSTRACT.lower()),
        article(TITLE.replace(" ", "  "), ABSTRACT.replace(" ", "\u00a0\n\t")),
        article(TITLE.replace(":", ""), ABSTRACT.replace("-", "\u2011")),
        article(f"[{TITLE}.]", f"{ABSTRACT} ±"),
        article(doc_id="PMC8"),
    ],
    ids=["case", "spacing", "punctuation", "brackets", "id"],
)
def test_case_spacing_punctuation_and_id_do_not_change_a_fingerprint(same: Document) -> None:
    assert print_of(same) == print_of(article())


@pytest.mark.parametrize("title", [TITLE + "1", TITLE.replace("factor", "fact0r"), TITLE[1:]])
def test_a_letter_or_digit_changes_both_fingerprints(title: str) -> None:
    assert not {*print_of(article(title))} & {*print_of(article())}


def test_the_title_is_told_by_itself_and_wherever_it_stands() -> None:
    text, title = print_of(article())
    other_text, same_title = print_of(article(abstract="Another abstract with the same title."))
    assert title == same_title != other_text != text
    doc = article()
    swapped = (replace(doc.passages[0], kind="abstract"), replace(doc.passages[1], kind="title"))
    assert print_of(replace(doc, passages=swapped)) == (text, print_of(article(ABSTRACT))[1])
    assert print_of(replace(doc, passages=doc.passages[1:])) == (text, 0)


@settings(deadline=None)
@given(st.integers(0, 2 * MIN_LETTERS), st.text(" .,-\t()α±", max_size=40))
def test_a_text_of_few_letters_says_nothing(num_letters: int, noise: str) -> None:
    doc = article("a" * num_letters + noise, noise)
    assert [value != 0 for value in print_of(doc)] == [num_letters >= MIN_LETTERS] * 2


def test_what_says_nothing_is_not_held_out_by_another_that_says_nothing(tmp_path: Path) -> None:
    write_pubtator(tmp_path / "c.PubTator", [article("Editorial", "", "1")])
    held = read_hold_out_list(str(tmp_path / "c.PubTator"))
    other = as_checked(article("In reply", "", "2"))
    assert not held.prints and not held.has(other, fingerprint(other))
    same_id = as_checked(article("In reply", "", "1"))
    assert held.has(same_id, fingerprint(same_id))


def test_a_document_is_held_out_by_its_text_or_by_its_title_alone() -> None:
    text, title = print_of(article())
    for prints, abstract in (({text}, ABSTRACT), ({title}, ABSTRACT), ({title}, "Full text.")):
        other = as_checked(article(abstract=abstract, doc_id="row 5"))
        assert HoldOutList("list", set(), prints).has(other, fingerprint(other))
        assert not HoldOutList("list", {"7"}, {1}).has(other, fingerprint(other))


@pytest.mark.parametrize("name", ["test.txt", "test.ids", "test.pmids", "test.tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_ids_are_read_one_a_line(tmp_path: Path, name: str, end: str) -> None:
    path = tmp_path / name
    path.write_bytes(end.join(["# ours", "12", " PMC13 ", "", "12", "a b"]).encode())
    found = read_hold_out_list(str(path))
    assert found.ids == {"12", "PMC13", "a b"} and not found.prints and found.name == name


def test_a_byte_order_mark_does_not_hide_the_first_id(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_bytes(b"\xef\xbb\xbf12\r\n13\r\n")
    assert read_hold_out_list(str(tmp_path / "test.txt")).ids == {"12", "13"}


def test_a_list_with_other_columns_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text("12\tHepatocyte nuclear factor-6\n")
    with pytest.raises(ValueError, match=r"test\.tsv"):
        read_hold_out_list(str(tmp_path / "test.tsv"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no id in this hold-out list"),
        (b"# only a remark\n\n", "no id in this hold-out list"),
        (b"10491763, 10788334\n", "'10491763, 10788334' is not a line"),
        (b"10491763 first\n", "'10491763 first' is not a line"),
        (b"PMC12 first\n", "'PMC12 first' is not a line"),
        (b"PMID:12 first\n", "'PMID:12 first' is not a line"),
        (b"https://pubmed.ncbi.nlm.nih.gov/123/\n", "pubmed.* is not a line"),
        (b"PubMed ID: 123\n", "'PubMed ID: 123' is not a line"),
        (b"PMID\t12345678\n", r"'PMID.t12345678' is not a line"),
        (b"pmcid\t12345678\n", r"'pmcid.t12345678' is not a line"),
        (b"pmid\n12\n", "'pmid' is not a line"),
        (b'"123"\n', "is not a line"),
        (b"123.0\n", "'123.0' is not a line"),
        (b"PMID 123.\n", "'PMID 123.' is not a line"),
        (b"PMC12a\n", "'PMC12a' is not a line"),
        ("10491763\n".encode("utf-16"), "not UTF-8"),
    ],
)
def test_a_list_that_is_not_understood_lets_nothing_through(
    tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_hold_out_list(str(tmp_path / "list.txt"))


def test_a_corpus_with_a_member_that_is_not_read_lets_nothing_through(tmp_path: Path) -> None:
    text = b"7|t|BRAF\n7|a|in mice\n"
    path = make_tar(tmp_path / "dev.tar", {"a.txt": text, "../b.txt": text})
    with pytest.raises(ValueError, match="not all of this hold-out corpus.*member/unsafe_name"):
        read_hold_out_list(str(path))


@pytest.mark.parametrize(
    ("written", "doc_id"),
    [
        ("PMID:1005", "1005"),
        ("PMID: 1005", "1005"),
        ("pmid:1005", "1005"),
        ("PMID 1005", "1005"),
        ("PMCID: PMC12", "PMC12"),
        ("PMCID:12", "PMC12"),
        ("pmc12", "PMC12"),
        ("PMC-12", "PMC12"),
        ("PMC: 12", "PMC12"),
        ("pubmed:1005", "1005"),
        ("PMID=1005", "1005"),
        ("row 5", "row 5"),
        ("MED:5", "MED:5"),
    ],
)
@pytest.mark.parametrize("behind", ["", "\t1f\t2f"])
def test_an_id_is_known_however_it_says_what_it_is(
    tmp_path: Path, written: str, doc_id: str, behind: str
) -> None:
    (tmp_path / "list.txt").write_text(f"{written}{behind}\n")
    assert read_hold_out_list(str(tmp_path / "list.txt")).ids == {doc_id}


def test_a_list_and_the_corpus_that_it_was_made_of_hold_the_same(tmp_path: Path) -> None:
    docs = [*make_corpus(5, seed=1), article("Editorial", "", "PMC9")]
    corpus = tmp_path / "dev.PubTator"
    write_pubtator(corpus, docs)
    path = tmp_path / "dev.tsv"
    path.write_text("\n".join(hold_out_lines([str(corpus)], None)))
    from_corpus, from_list = read_hold_out_list(str(corpus)), read_hold_out_list(str(path))
    assert from_list.ids == from_corpus.ids == {doc.doc_id for doc in docs}
    assert from_list.prints == from_corpus.prints and len(from_list.prints) > 5
    assert from_list.digest == from_corpus.digest


def test_two_lists_of_one_name_are_refused(tmp_path: Path) -> None:
    """Their documents would be counted as if they were one."""
    paths = [tmp_path / name / "test.txt" for name in ("one", "other")]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        path.write_text(f"{number}\n")
    found = read_lists(["biored", str(paths[0])])
    assert [one.name for one in found] == ["biored", "test.txt"]
    with pytest.raises(ValueError, match=r"one/test\.txt and .*other/test\.txt: .*; rename one"):
        read_lists(["biored", *map(str, paths)])


def test_the_digest_tells_lists_apart_and_not_their_order(tmp_path: Path) -> None:
    digests = set()
    for number, text in enumerate(["12\n13\n", "13\n12\n", "12\n", "12\n13\ta\tb\n"]):
        path = tmp_path / f"{number}.tsv"
        path.write_text(text)
        digests.add(read_hold_out_list(str(path)).digest)
    assert len(digests) == 3


def test_a_document_is_known_by_each_of_its_ids() -> None:
    checked = as_checked(replace(article(doc_id="row 5"), pmid="7"))._replace(pmcid="PMC8")
    assert document_ids(checked) == {"row 5", "7", "PMC8"}
    assert document_ids(as_checked(article())) == {"7"}


def make_list(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_tool_writes_a_list_that_is_read_back(tmp_path: Path) -> None:
    docs = make_corpus(6, seed=1)
    write_pubtator(tmp_path / "a.PubTator", docs[:4])
    write_bioc_json(tmp_path / "b.json", docs[2:])
    out = tmp_path / "new" / "list.tsv"
    done = make_list(tmp_path / "a.PubTator", tmp_path / "b.json", "--out", out)
    assert done.exit_code == 0 and "6 ids in" in done.output
    held = read_hold_out_list(str(out))
    assert held.ids == {doc.doc_id for doc in docs}
    assert held.prints == {value for doc in docs for value in print_of(doc)} - {0}
    assert docs[0].text[:20] not in out.read_text()


def test_the_tool_takes_the_ids_asked_for_and_keeps_those_it_did_not_find(tmp_path: Path) -> None:
    docs = make_corpus(6, seed=1)
    write_pubtator(tmp_path / "a.PubTator", docs)
    (tmp_path / "ids.txt").write_text(f"{docs[1].doc_id}\n{docs[4].doc_id}\n999\n")
    out = tmp_path / "list.tsv"
    done = make_list(tmp_path / "a.PubTator", "--ids", tmp_path / "ids.txt", "--out", out)
    assert done.exit_code == 0
    held = read_hold_out_list(str(out))
    assert held.ids == {docs[1].doc_id, docs[4].doc_id, "999"}
    assert held.prints == {v for n in (1, 4) for v in print_of(docs[n])} - {0}


def test_the_tool_writes_no_list_that_would_be_read_as_a_corpus(tmp_path: Path) -> None:
    write_pubtator(tmp_path / "a.PubTator", [article()])
    done = make_list(tmp_path / "a.PubTator", "--out", tmp_path / "list.lst")
    assert isinstance(done.exception, SystemExit) and done.exit_code == 2
    assert not (tmp_path / "list.lst").exists()


@pytest.mark.parametrize("asked", ["PMC8", "pmc8", "PMCID: PMC8", "PMID: 7"])
def test_an_id_that_was_asked_for_is_on_the_list(tmp_path: Path, asked: str) -> None:
    doc = replace(article(doc_id="PMC8"), pmid="7")
    write_bioc_json(tmp_path / "a.json", [doc])
    (tmp_path / "ids.txt").write_text(f"{asked}\n")
    make_list(tmp_path / "a.json", "--ids", tmp_path / "ids.txt", "--out", tmp_path / "list.tsv")
    held = read_hold_out_list(str(tmp_path / "list.tsv"))
    assert held.ids == {"PMC8", "7"} and held.prints


def test_the_tool_says_what_is_not_there(tmp_path: Path) -> None:
    done = make_list(tmp_path / "absent", "--out", tmp_path / "list.tsv")
    assert done.exit_code == 2 and "does not exist" in done.output
    assert not (tmp_path / "list.tsv").exists()


def test_the_tool_says_which_list_of_ids_is_not_there(tmp_path: Path) -> None:
    write_pubtator(tmp_path / "a.PubTator", make_corpus(1, seed=1))
    absent = tmp_path / "absent.txt"
    done = make_list(tmp_path / "a.PubTator", "--ids", absent, "--out", tmp_path / "list.tsv")
    assert done.exit_code == 2 and "absent.txt" in done.output


def test_real_evaluation_documents_do_not_come_in_under_another_id(
    corpora: Path, tmp_path: Path
) -> None:
    """BC5CDR's training and development documents hold 21 abstracts of BioRED's test set."""
    biored, bc5cdr = (read_hold_out_list(name) for name in SHIPPED)
    test = read_hold_out_list(str(corpora / "biored" / "Test.pmids.txt")).ids
    source = corpora / "pubtator_gold" / "BC5CDR_TrainDev.PubTator"
    docs = list(read_documents(source, Tally()))
    assert len(test & {doc.doc_id for doc in docs}) == 21
    known = [doc for doc in docs if doc.doc_id in biored.ids]
    docs = [*known, *(doc for doc in docs if doc.doc_id not in biored.ids)][:150]
    twins = [replace(doc, doc_id=f"row-{doc.doc_id}", text=doc.text.upper()) for doc in known]
    write_pubtator(tmp_path / "in.PubTator", [*docs, *twins])
    manifest, _ = shard(
        [str(tmp_path / "in.PubTator")],
        tmp_path / "out",
        corpora / "pubmedbert",
        [*SHIPPED],
        ShardSettings(),
    )
    shard_set = ShardSet.open(tmp_path / "out")
    left = {*doc_ids(shard_set, "train"), *doc_ids(shard_set, "validation")}
    assert left == {doc.doc_id for doc in docs if doc.doc_id not in biored.ids | bc5cdr.ids}
    assert manifest.held_out["biored"] == 2 * len(known) == 74
    assert manifest.total().documents + sum(manifest.held_out.values()) == len(docs) + 37
    texts = {doc.doc_id: print_of(doc)[0] for doc in docs}
    assert not {texts[name] for name in left} & {texts[name] for name in test if name in texts}
