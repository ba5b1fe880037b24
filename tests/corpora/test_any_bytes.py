"""Whatever the bytes are: documents or counted losses, and the same however they are cut."""

import gzip
import io
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embre.corpora import FORMATS, pubtator_write, read_documents
from embre.tally import Tally
from tests.corpora.from_bytes import read_bytes

PUBTATOR = (
    "1|t|BRAF in melanoma\n1|a|Yes, α.\n1\t0\t4\tBRAF\tGene\t673\n1\tBind\t673\t673\tNovel\n\n"
    "2|t|KRAS\r\n2|a|\r\n2\t0\t4\tKRAS\tGene\t3845\r\n\r\n3|t|no blank line\n4|t|before me\n4|a|x\n"
).encode()
XML = (
    b"<?xml version='1.0' encoding='UTF-8'?>\n<!DOCTYPE collection SYSTEM 'BioC.dtd'>\n<collection>"
    b"<source>x</source>\n"
    + b"".join(
        b"<document><id>%d</id><passage><infon key='type'>title</infon><offset>0</offset>"
        b"<text>BRAF &amp; \xce\xb1</text><annotation><infon key='type'>Gene</infon>"
        b"<location offset='0' length='4'/><text>BRAF</text></annotation></passage></document>\n"
        % n
        for n in range(4)
    )
    + b"</collection>\n"
)
JSON = (
    b'{"source": "x", "infons": {}, "documents": [\n'
    + b",\n".join(
        b'{"id": "%d", "passages": [{"offset": 0, "text": "BRAF \\"}\xce\xb1", "annotations":\n'
        b'[{"infons": {"type": "Gene"}, "text": "BRAF", "locations": [{"offset": 0, "length": 4}]}]'
        b"}]}" % n
        for n in range(4)
    )
    + b'\n], "key": "BioC.key"}\n'
)
BASES = {"pubtator": PUBTATOR, "bioc_xml": XML, "bioc_json": JSON}
PIECES = [
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"<",
    b">",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b"\n\n",
    b"\r\n",
]
PIECES += [b"<document>", b"</document>", b"|t|", b"\n9|t|", b"\t", b"&x;", b'{"id":', b"\\ud800"]


@st.composite
def damaged(draw: st.DrawFn, base: bytes) -> bytes:
    """A file with a few places cut out, doubled or overwritten."""
    data = base
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 200)))
        middle = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=4), st.just(b"")))
        data = data[:start] + middle + data[end:]
    return data[: draw(st.sampled_from([len(data), len(data), len(data) // 2]))]


@pytest.mark.parametrize("format", FORMATS)
def test_whole_files_read_whole(format):
    tally = Tally()
    assert len(read_bytes(format, BASES[format], tally)) == 4
    assert not tally.counts


@pytest.mark.parametrize("format", FORMATS)
@given(data=st.data())
def test_documents_or_losses_and_the_same_however_cut(format, data):
    content = data.draw(st.one_of(damaged(BASES[format]), st.binary(max_size=60)))
    max_bytes = data.draw(st.sampled_from([60, 300, 1 << 20]))
    whole, parts = Tally(), Tally()
    documents = read_bytes(format, content, whole, max_bytes, max_bytes)
    chunk_bytes = data.draw(st.sampled_from([3, 7, 50]))
    assert read_bytes(format, content, parts, chunk_bytes, max_bytes) == documents
    assert parts.counts == whole.counts


def test_a_document_of_the_largest_size_is_read_however_it_is_cut():
    largest = b"1|t|BRAF\n2\t0\t4\tKRAS\tGene\t3845\r3|t|no blank line\n"
    content = largest + b"4|t|before me\n"
    for size, lost in ((len(largest), 0), (len(largest) - 1, 1)):
        for chunk_bytes in (*range(1, 12), len(largest), 1 << 20):
            tally = Tally()
            docs = read_bytes("pubtator", content, tally, chunk_bytes, size)
            assert [doc.doc_id for doc in docs] == ["1", "4"][lost:], (size, chunk_bytes)
            assert tally.counts["document/too_large"] == lost


@given(content=damaged(PUBTATOR))
def test_a_copy_without_relations_has_the_same_documents(content):
    docs = [replace(doc, relations=()) for doc in read_bytes("pubtator", content)]
    copy = io.BytesIO()
    pubtator_write.copy_with_relations(io.BytesIO(content), copy, iter(docs))
    assert read_bytes("pubtator", copy.getvalue()) == docs
    lines = iter(content.split(b"\n"))
    assert all(line in lines for line in copy.getvalue().split(b"\n")[:-1]), "in their order"


@given(
    member=st.sampled_from(sorted(BASES.values())).flatmap(damaged),
    start=st.integers(0, 4000),
    noise=st.binary(max_size=3),
    packed=st.booleans(),
)
def test_archives_give_documents_or_losses(member, start, noise, packed):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in {
            "ä" * 60: member,
            "b.gz": gzip.compress(member),
            "c": PUBTATOR,
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    data = gzip.compress(file.getvalue()) if packed else file.getvalue()
    data = data[:start] + noise + data[start + len(noise) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "archive"
        path.write_bytes(data)
        (Path(folder) / "beside").write_bytes(PUBTATOR)
        tally = Tally()
        documents = list(read_documents(folder, tally))
    assert [doc.doc_id for doc in documents[-4:]] == ["1", "2", "3", "4"]
    assert len(documents) > 4 or tally.counts
