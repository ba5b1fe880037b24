"""Files made to do harm: none takes more than its share of memory, and nothing outside is touched.

What could fill the memory is read in a process of its own, under a limit.
"""

import gzip
import io
import json
import pickle
import subprocess
import sys
import tarfile
import time
import tracemalloc
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from embre.corpora import FORMATS, gunzip, read_documents, read_raw
from embre.corpora.raw import MAX_DOCUMENT_BYTES
from embre.corpora.window import Window
from embre.tally import Tally
from tests.corpora.from_bytes import read_bytes
from tests.corpora.test_read_documents import TEXT, make_tar

LIMIT_BYTES = 700 << 20  # of address space, most of it libraries
READ_IN_A_CHILD = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
from embre.corpora import read_documents
from embre.tally import Tally
tally = Tally()
ids = [doc.doc_id for doc in read_documents(sys.argv[1], tally)]
status = open("/proc/self/status").read()  # getrusage would tell of the parent, too
peak_kb = int(status.split("VmHWM:")[1].split()[0])
print(json.dumps({"ids": ids, "counts": tally.counts, "peak_mb": peak_kb >> 10}))
"""


def read_in_a_child(path: Path) -> tuple[list[str], dict[str, int]]:
    command = [sys.executable, "-c", READ_IN_A_CHILD, str(path), str(LIMIT_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    assert found["peak_mb"] < 300
    return found["ids"], found["counts"]


def collection(body: str, doctype: str = "") -> bytes:
    return f"<?xml version='1.0'?>{doctype}<collection>{body}</collection>".encode()


def xml_document(text: str, doc_id: int = 1) -> str:
    passage = f"<passage><offset>0</offset><text>{text}</text></passage>"
    return f"<document><id>{doc_id}</id>{passage}</document>"


LAUGHS = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            collection(xml_document("&l9;"), f"<!DOCTYPE collection [<!ENTITY l0 'lol'>{LAUGHS}]>"),
            "file/declares_entities",
        ),
        (
            collection(
                xml_document("&a;" * 100_000), f"<!DOCTYPE collection [<!ENTITY a '{'a' * 9999}'>]>"
            ),
            "file/declares_entities",
        ),
        (
            collection(
                xml_document("&x;"),
                "<!DOCTYPE collection [<!ENTITY x SYSTEM 'file:///etc/hostname'>]>",
            ),
            "file/declares_entities",
        ),
        (
            collection(xml_document("&x;"), "<!DOCTYPE collection SYSTEM 'file:///etc/hostname'>"),
            "document/unreadable",
        ),
        (collection(xml_document("<a>" * 100_000 + "</a>" * 100_000)), "document/unreadable"),
        (collection(xml_document("a" * (12 << 20))), "document/unreadable"),
        (collection(xml_document("a<b>b</b>a")), "document/unreadable"),
        (collection(f"<document a='{'a' * (12 << 20)}'></document>"), "document/unreadable"),
    ],
    ids=["laughs", "quadratic", "external", "undeclared", "deep", "long", "mixed", "attribute"],
)
def test_xml_that_does_harm_is_refused(content, reason):
    tally, start = Tally(), time.monotonic()
    assert read_bytes("bioc_xml", content, tally) == []
    assert tally.counts == {reason: 1}
    assert time.monotonic() - start < 1
    assert Path("/etc/hostname").read_text().strip() not in str(tally)


@pytest.mark.parametrize("columns", ["zz\tGene", "Gene\tzz"])
def test_mentions_as_long_as_the_text_take_no_hours(columns):
    title = "αb " * 1_000_000
    spans = ((start, len(title) - start) for start in range(3000))
    lines = "".join(f"7\t{start}\t{end}\t{columns}\t1\n" for start, end in spans)
    tally, start = Tally(), time.process_time()
    read_bytes("pubtator", f"7|t|{title}\n7|a|x\n{lines}".encode(), tally)
    assert time.process_time() - start < 10
    assert tally.counts == {"mention/offset_mismatch": 3000}


def test_comments_do_not_shorten_a_text():
    content = collection(xml_document("a<!-- b -->c<?d e?>f<![CDATA[<g>]]>&lt;"))
    assert [doc.text for doc in read_bytes("bioc_xml", content)] == ["acf<g><"]


@pytest.mark.parametrize(
    ("encoding", "text", "reason"),
    [
        ("UTF-8", "naïve α", None),
        ("ISO-8859-1", "naïve", None),
        ("windows-1252", "naïve “”", None),
        ("Shift_JIS", "naive", "file/unknown_encoding"),
        ("no-such-thing", "naive", "file/unknown_encoding"),
    ],
)
def test_a_declared_encoding_is_honoured_or_the_file_counted(encoding, text, reason):
    body = f"<collection>{xml_document(text)}</collection>"
    declared = f"<?xml version='1.0' encoding='{encoding}'?>{body}"
    content = declared.encode("ascii" if reason else encoding)
    for chunk_bytes in (3, 1 << 20):
        tally = Tally()
        documents = read_bytes("bioc_xml", content, tally, chunk_bytes)
        assert [doc.text for doc in documents] == ([] if reason else [text])
        assert tally.counts == ({reason: 1} if reason else {})


def test_a_byte_that_the_declared_encoding_does_not_know_costs_its_document():
    tally = Tally()
    body = f"<collection>{xml_document('?')}{xml_document('naïve', 2)}</collection>"
    content = f"<?xml version='1.0' encoding='cp1252'?>{body}".encode("cp1252")
    found = read_bytes("bioc_xml", content.replace(b"?</text>", b"\x81</text>"), tally)
    assert [doc.text for doc in found] == ["naïve"]
    assert tally.counts == {"document/unreadable": 1}


def test_a_gzip_bomb_is_stopped(tmp_path):
    bomb = gzip.compress(TEXT) + gzip.compress(bytes(16 << 20)) * 100
    ids, counts = read_in_a_child(make_tar(tmp_path / "a.tar", {"bomb.gz": bomb, "good": TEXT}))
    assert ids == ["7", "7"]
    assert counts == {"file/bomb": 1, "document/too_large": 1}


def test_a_bomb_around_an_archive_is_stopped_and_ordinary_zeros_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(gunzip, "BOMB_BYTES", 32 << 20)
    (tmp_path / "a.gz").write_bytes(
        gzip.compress(GOOD + header("zeros", 80 << 20) + bytes(80 << 20))
    )
    (tmp_path / "b.gz").write_bytes(gzip.compress(TEXT + bytes(31 << 20)))
    tally = Tally()
    assert [doc.doc_id for doc in read_documents(tmp_path, tally)] == ["7", "7"]
    assert tally.counts["file/bomb"] == 1
    assert tally.examples["file/bomb"][0].startswith(str(tmp_path / "a.gz"))


class Endless(io.RawIOBase):
    """A file longer than the memory, made while it is read."""

    def __init__(self, start: bytes, filling: bytes, end: bytes, num_bytes: int) -> None:
        self.start, self.filling, self.end = start, filling, end
        self.num_left = num_bytes

    def read1(self, size: int) -> bytes:
        if self.start:
            given, self.start = self.start, b""
        elif self.num_left:
            given = self.filling * min(size, self.num_left)
            self.num_left -= len(given)
        else:
            given, self.end = self.end, b""
        return given


ENDLESS = {
    "pubtator": (b"1|t|", b"a", b"\n1|a|b\n\n2|t|BRAF\n2|a|b\n\n"),
    "bioc_xml": (
        b"<collection><document><id>1</id><passage><text>",
        b"a",
        f"</text></passage></document>{xml_document('BRAF', 2)}</collection>".encode(),
    ),
    "bioc_json": (
        b'[{"id": "1", "passages": [{"text": "',
        b"a",
        b'"}]}, {"id": "2", "passages": [{"offset": 0, "text": "BRAF"}]}]',
    ),
}


@pytest.mark.parametrize("format", FORMATS)
def test_a_line_without_end_is_skipped(format):
    tally, most = Tally(), 0
    stream = cast(BinaryIO, Endless(*ENDLESS[format], num_bytes=3 * MAX_DOCUMENT_BYTES))
    tracemalloc.start()
    try:
        chunks = list(FORMATS[format].cut(Window(stream, "endless", tally)))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    documents = [raw.doc_id for chunk in chunks for raw in read_raw(chunk, tally)]
    assert documents == ["2"]
    assert tally.counts == {"document/too_large": 1}
    assert most < 3 * MAX_DOCUMENT_BYTES  # a window, and the next one while it is made


def test_members_that_are_no_plain_files_are_counted(tmp_path):
    """Links would read a file that is there; a device or a pipe would wait or never end."""
    (tmp_path / "secret").write_bytes(TEXT)
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
    with tarfile.open(tmp_path / "dump.tar", "w") as archive:
        for number, kind in enumerate(kinds):
            member = tarfile.TarInfo(f"member{number}")
            member.type, member.linkname, member.devmajor = kind, str(tmp_path / "secret"), 1
            archive.addfile(member)
        for name in ["../up", "a/../../up", "/etc/absolute", "model.pkl", "good"]:
            content = pickle.dumps({"7|t|": 1}) if name.endswith("pkl") else TEXT
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    tally, before = Tally(), sorted(tmp_path.rglob("*"))
    assert [doc.doc_id for doc in read_documents(tmp_path / "dump.tar", tally)] == ["7"]
    assert tally.counts == {
        "member/not_a_file": len(kinds),
        "member/unsafe_name": 3,
        "file/unknown_format": 1,
    }
    assert sorted(tmp_path.rglob("*")) == before


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


GOOD = header("good", len(TEXT)) + padded(TEXT)
SPARSE = bytearray(header("sparse", 512, b"S"))
SPARSE[386:410] = b"00000000000\0" + b"00000001000\0"
SPARSE[483:495] = b"77777777777\0"
SPARSE[148:156] = b" " * 8
SPARSE[148:156] = b"%06o\0 " % sum(SPARSE)


@pytest.mark.parametrize(
    ("archive", "ids", "reason"),
    [
        (GOOD + header("x", 8 << 30, b"x") + bytes(4096), ["7"], "file/broken_archive"),
        (GOOD + header("x", 8 << 30, b"L") + bytes(4096), ["7"], "file/broken_archive"),
        (GOOD + header("x", -512) + GOOD, ["7"], "file/broken_archive"),
        (GOOD + b"\1" * 512 + GOOD, ["7"], "file/broken_archive"),
        (GOOD, ["7"], "file/broken_archive"),
        (GOOD + GOOD[:500], ["7"], "file/broken_archive"),
        (
            GOOD + bytes(SPARSE) + TEXT.ljust(512) + GOOD + bytes(1024),
            ["7", "7"],
            "member/not_a_file",
        ),
        (
            GOOD + header("x", 512, b"x") + padded(b"20 size=99999999999\n") + GOOD,
            ["7"],
            "file/broken_archive",
        ),
        (GOOD + header("x", 512, b"x") + padded(b"0 a=b\n"), ["7"], "file/broken_archive"),
    ],
    ids="pax long_name negative damaged endless cut sparse pax_size pax_line".split(),
)
def test_headers_that_lie(tmp_path, archive, ids, reason):
    (tmp_path / "dump").write_bytes(archive)
    tally = Tally()
    tracemalloc.start()
    try:
        found = [doc.doc_id for doc in read_documents(tmp_path, tally)]
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == ids and set(tally.counts) == {reason}
    assert most < 10 << 20


def test_a_mention_far_away_does_not_fill_the_memory():
    passages = [{"offset": n * 99_999, "text": ""} for n in range(10_000)]
    tally = Tally()
    (doc,) = read_bytes("bioc_json", json.dumps({"id": "1", "passages": passages}).encode(), tally)
    assert len(doc.text) < 100_000 and tally.counts == {"passage/far_away": 9_998}
