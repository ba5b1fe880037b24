"""Files copied with other relations: all else stays."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from lxml import etree

from embre.corpora import copy_with_relations, read_documents
from embre.corpora.sources import locate
from embre.document import Document, Relation
from embre.tally import Tally

MENTION = (
    '<annotation id="{0}"><infon key="type">Gene</infon><infon key="identifier">{1}</infon>'
    '<infon key="extra">kept &amp; &#8201;whole</infon><location offset="{2}" length="1"/>'
    "<text>{3}</text></annotation>"
)
PASSAGE = (
    '<passage><infon key="year">1999</infon><offset>0</offset><text>A &lt; B</text>'
    + MENTION.format(0, 1, 0, "A")
    + MENTION.format(1, 2, 4, "B")
    + "</passage>"
)
OLD = '<relation id="a>b"><infon key="type">Old</infon></relation>'


def xml_file(*documents: str, head: str = '<?xml version="1.0" encoding="UTF-8"?>') -> bytes:
    inner = "".join(f"<document>{one}</document>" for one in documents)
    return f"{head}<collection><source>me</source>{inner}</collection>\n".encode()


def related(docs: Iterator[Document]) -> Iterator[Document]:
    """Every pair of concepts, with probability 0.25."""
    for doc in docs:
        pairs = combinations(doc.mentions_by_concept(), 2)
        found = (Relation(a, b, "Association", True, 0.25) for a, b in pairs)
        yield replace(doc, relations=tuple(found))


def without_relations(docs: Iterator[Document]) -> Iterator[Document]:
    return (replace(doc, relations=()) for doc in docs)


def copy(path: Path, tally: Tally | None = None) -> Path:
    target = path.parent / "out" / path.name
    assert copy_with_relations(locate(str(path)), target, tally or Tally(), related)
    assert [one.name for one in target.parent.iterdir()] == [path.name], "nothing half written"
    return target


def bare(data: bytes) -> str:
    """XML without relations and what indents elements, comparable."""
    root = etree.fromstring(data, etree.XMLParser(remove_blank_text=True))
    for relation in [*root.iter("relation")]:
        relation.getparent().remove(relation)
    return etree.tostring(root, method="c14n").decode()


@pytest.mark.parametrize(
    "document",
    [
        f"<id>7</id>{PASSAGE}",
        f"<id>7</id>{PASSAGE}{OLD}{OLD}",
        f"<id>7</id>{PASSAGE}<relation/>",
        f"<id>7</id><!-- <relation> --><infon key='a'><![CDATA[</passage>]]></infon>{PASSAGE}{OLD}",
        f"<id>7</id>{OLD}{PASSAGE}{OLD}",
        f"<id>7</id>{PASSAGE.replace('</passage>', OLD + '</passage>')}{OLD}",
    ],
)
def test_only_relations_of_a_bioc_xml_document_change(tmp_path: Path, document: str) -> None:
    given = xml_file(document, f"<id>8</id>{PASSAGE}", "<id>9</id>")
    (tmp_path / "a.xml").write_bytes(given)
    written = copy(tmp_path / "a.xml")
    assert bare(written.read_bytes()) == bare(given)
    before = list(read_documents(tmp_path / "a.xml", Tally()))
    after = list(read_documents(written, Tally()))
    assert [len(doc.relations) for doc in after] == [1, 1, 0]
    assert [replace(d, relations=()) for d in after] == [replace(d, relations=()) for d in before]
    assert (after[0].relations[0].novel, after[0].relations[0].probability) == (True, 0.25)


def test_bytes_around_relations_stay(tmp_path: Path) -> None:
    given = xml_file(f"\r\n  <id>7</id>\r\n  {PASSAGE}\r\n", "<id>8</id>", "broken")
    (tmp_path / "a.xml").write_bytes(b"\xef\xbb\xbf" + given)
    tally = Tally()
    written = copy(tmp_path / "a.xml", tally).read_bytes()
    start, end = written.index(b"\r\n  <relation"), written.index(b"</relation>") + 11
    assert written[:start] + written[end:] == b"\xef\xbb\xbf" + given
    assert tally.counts["document/unreadable"] == 1


def test_another_encoding_comes_out_as_utf_8(tmp_path: Path) -> None:
    head = '<?xml version="1.0" encoding="ISO-8859-1"?>'
    text = xml_file(f"<id>7</id>{PASSAGE.replace('1999', 'né')}", head=head).decode()
    (tmp_path / "a.xml").write_bytes(text.encode("latin-1"))
    written = copy(tmp_path / "a.xml").read_bytes()
    assert bare(written) == bare(text.encode("latin-1")) and b"<relation" in written


def json_document(doc_id: str, **more: object) -> dict[str, object]:
    mention = {"infons": {"type": "Gene", "score": 0.10}, "id": "x"}
    mentions = [
        {**mention, "infons": {**mention["infons"], "identifier": n}, "text": t, "locations": [at]}
        for n, t, at in (
            ("1", "A", {"offset": 0, "length": 1}),
            ("2", "B", {"offset": 2, "length": 1}),
        )
    ]
    passage = {"offset": 0, "text": "A B", "infons": {"year": "1999"}, "annotations": mentions}
    return {"_id": "z", "id": doc_id, "passages": [passage], "accessions": ["a\u2028b"], **more}


def test_relations_of_json_passages_are_replaced_too(tmp_path: Path) -> None:
    old = [{"id": "R0", "infons": {"type": "Old", "entity1": "1", "entity2": "2"}}]
    document = json_document("7")
    (passage,) = document["passages"]  # type: ignore[misc]
    given, none = {**document, "passages": [passage | {"relations": old}]}, tmp_path / "none.json"
    (tmp_path / "a.json").write_text(json.dumps(given))
    (read,) = read_documents(tmp_path / "a.json", Tally())
    assert [relation.type for relation in read.relations] == ["Old"]
    (after,) = read_documents(copy(tmp_path / "a.json"), Tally())
    assert [relation.type for relation in after.relations] == ["Association"]
    copy_with_relations(locate(str(tmp_path / "a.json")), none, Tally(), without_relations)
    assert json.loads(none.read_text()) == {
        **document,
        "passages": [passage | {"relations": []}],
        "relations": [],
    }


def test_a_json_document_without_passages_is_copied(tmp_path: Path) -> None:
    bare_one = {"id": "9", "relations": []}
    given = {"documents": [bare_one, json_document("7")]}
    (tmp_path / "a.json").write_text(json.dumps(given))
    after = json.loads(copy(tmp_path / "a.json").read_text())["documents"]
    assert after[0] == bare_one
    assert len(after[1]["relations"]) == 1


@pytest.mark.parametrize("wrap", ["collection", "lines", "one", "PubTator3"])
def test_only_relations_of_bioc_json_change(tmp_path: Path, wrap: str) -> None:
    old = [{"id": "R0", "infons": {"type": "Old", "entity1": "1", "entity2": "2"}}]
    docs = [json_document("7", relations=old, big=2**70, last=None), json_document("8")]
    if wrap == "lines":
        text = "\n".join(json.dumps(doc) for doc in docs)
    elif wrap == "one":
        text, docs = json.dumps(docs[0], indent=2), docs[:1]
    elif wrap == "PubTator3":
        text = json.dumps({"PubTator3": docs}, indent=1)
    else:
        text = json.dumps({"source": "me", "infons": {"a": "b"}, "documents": docs, "after": [1]})
    (tmp_path / "a.json").write_text(text)
    written = copy(tmp_path / "a.json")
    after = list(read_documents(written, Tally()))
    assert [len(doc.relations) for doc in after] == [1] * len(docs)

    def stripped(data: str) -> object:
        found = [json.loads(line) for line in ([data] if wrap != "lines" else data.splitlines())]
        for value in found:
            for doc in value.get("documents") or value.get("PubTator3") or [value]:
                doc.pop("relations", None)
        return found

    assert stripped(written.read_text()) == stripped(text)


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_two_files_of_an_archive_that_would_have_one_name_are_refused(tmp_path: Path) -> None:
    text = b"9|t|A B\n\n"
    write_archive(tmp_path / "all", {"b.txt": text, "b.txt.gz": gzip.compress(text)})
    with pytest.raises(ValueError, match="all: b.txt and b.txt.gz would both be b.txt in .*rename"):
        copy(tmp_path / "all")
    assert not list((tmp_path / "out").iterdir())


def test_an_archive_comes_out_as_a_tar_of_the_same_files(tmp_path: Path) -> None:
    members = {
        "README": b"nothing",
        "in/a.xml": xml_file(f"<id>7</id>{PASSAGE}"),
        "in/empty.xml": xml_file("<id>8</id>"),
        "b.txt.gz": gzip.compress(b"9|t|A B\n9\t0\t1\tA\tGene\t1\n9\t2\t3\tB\tGene\t2\n\n"),
        "c.json": json.dumps(json_document("10")).encode(),
    }
    write_archive(tmp_path / "all", members)
    tally = Tally()
    written = copy(tmp_path / "all", tally)
    with tarfile.open(written) as archive:
        assert archive.getnames() == ["in/a.xml", "in/empty.xml", "b.txt", "c.json"]
        found = archive.extractfile("in/a.xml")
        assert found and bare(found.read()) == bare(members["in/a.xml"])
    after = {doc.doc_id: len(doc.relations) for doc in read_documents(written, Tally())}
    assert after == {"7": 1, "8": 0, "9": 1, "10": 1}
    assert tally.counts["file/unknown_format"] == 1


def test_what_is_no_corpus_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("Hello.")
    target = tmp_path / "out" / "a"
    assert not copy_with_relations(locate(str(tmp_path / "a")), target, Tally(), related)
    assert not list(target.parent.iterdir())


def test_a_file_larger_than_what_is_read_at_once(tmp_path: Path) -> None:
    filler = f"<infon key='text'>{'x' * 100_000}</infon>"
    given = xml_file(*(f"<id>{n}</id>{filler}{PASSAGE}{OLD}" for n in range(1, 200)))
    (tmp_path / "a.xml").write_bytes(given)
    written = copy(tmp_path / "a.xml")
    assert bare(written.read_bytes()) == bare(given)
    assert sum(len(doc.relations) for doc in read_documents(written, Tally())) == 199


@pytest.mark.parametrize(
    "name", ["biored/Dev.BioC.XML", "biored/Dev.BioC.JSON", "pubtator3", "pubtator_bulk"]
)
def test_real_files_keep_all_but_their_relations(corpora: Path, tmp_path: Path, name: str) -> None:
    given = corpora / name
    for number, file in enumerate([given] if given.is_file() else sorted(given.iterdir())):
        if not file.is_file() or file.stat().st_size > 20 << 20:
            continue
        target = tmp_path / str(number)
        if not copy_with_relations(locate(str(file)), target, Tally(), related):
            continue
        before, after = (read_documents(path, Tally()) for path in (file, target))
        for one, other in zip(before, after, strict=True):
            assert replace(other, relations=()) == replace(one, relations=())
        content = file.read_bytes()
        if content.startswith(b"<?xml") and b"<collection" in content[:4000]:
            assert bare(target.read_bytes()) == bare(content)
