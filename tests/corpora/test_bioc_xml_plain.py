"""What the regular expressions take of BioC-XML, the parser reads alike."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from embre.corpora import read_chunks
from embre.corpora.bioc_xml import CLOSE, OPEN, make_parser, read_any
from embre.corpora.bioc_xml_plain import read_plain
from embre.corpora.raw import RawDocument
from embre.tally import Tally

DUMP = (
    '<document><id>12</id><passage><infon key="type">title</infon>'
    '<infon key="article-id_pmid">12</infon><offset>0</offset><text>BRAF &amp; α in mice</text>'
    '<annotation id="2"><infon key="identifier">673</infon><infon key="type">Gene</infon>'
    '<infon key="NCBI Homologene">3</infon><location offset="0" length="4"/><text>BRAF</text>'
    '</annotation><annotation id="3"><infon key="type">Species</infon>'
    '<location offset="12" length="4"/><text>mice</text></annotation></passage>'
    '<passage><infon key="type">abstract</infon><offset>17</offset><text>p &lt; 0.05</text>'
    "</passage>"
    '<relation id="R1"><infon key="role1">Gene|673</infon><infon key="role2">Species|10090</infon>'
    '<infon key="type">Association</infon><node refid="2" role=""/></relation></document>'
)
LAID_OUT = """<document>
  <id>PMC9</id>
  <passage>
    <infon key="section_type">TITLE</infon>
    <offset>3</offset>
    <text>Kinase "X" > Y</text>
    <annotation id="a">
      <infon key="MESH">D1</infon>
      <infon key="type">Disease</infon>
      <location length="6" offset="3"/>
      <text>Kinase</text>
    </annotation>
  </passage>
</document>"""


def parsed(data: bytes) -> RawDocument | None:
    try:
        return read_any(data, make_parser(), "f", 1, Tally())
    except (etree.LxmlError, ValueError, TypeError):
        return None


@pytest.mark.parametrize("text", [DUMP, LAID_OUT])
def test_a_plain_document_is_taken_and_read_alike(text: str) -> None:
    plain = read_plain(text.encode(), "f", 1, with_relations=True)
    assert plain is not None and plain.mentions
    assert plain == parsed(text.encode())


def test_relations_are_left_out_where_nobody_wants_them() -> None:
    found = read_plain(DUMP.encode(), "f", 1, with_relations=False)
    assert found is not None and not found.relations and len(found.mentions) == 2


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        ("mice</text>", "mice<!-- no --></text>"),
        ("mice</text>", "<![CDATA[mice]]></text>"),
        ("mice</text>", "mice ]]> x</text>"),
        ("&amp;", "&#38;"),
        ("&amp;", "&other;"),
        ("&amp;", "&"),
        ("BRAF &amp;", "BRAF\x01"),
        ("BRAF &amp;", "BRAF\r\n"),
        ("BRAF &amp;", "BRAF \ufffe"),
        ("</document>", "</document><x/>"),
        ("<passage>", "<passage><sentence/>"),
        ('<location offset="0" length="4"/>', ""),
        ('<location offset="0" length="4"/>', '<location offset="0" length="4"/>' * 2),
        ('offset="0"', 'offset="-1"'),
        ('offset="0"', 'offset="٣"'),
        ("<id>12</id>", "<id> </id>"),
        ('id="2"', 'id="2" id="2"'),
        ("<offset>0</offset>", ""),
        ("</annotation>", "</anotation>"),
        ('<infon key="role2">Species|10090</infon>', ""),
        ("</passage><passage>", '<relation id="R2"></relation></passage><passage>'),
    ],
)
def test_what_is_not_plain_is_left_to_the_parser(there: str, instead: str) -> None:
    data = DUMP.replace(there, instead, 1).encode()
    assert there in DUMP
    assert read_plain(data, "f", 1, with_relations=True) is None


PIECES = [
    "<",
    ">",
    "&",
    '"',
    "&lt;",
    "&x;",
    "</text>",
    "<text>",
    "\x00",
    "\r",
    " ",
    "\n",
    "]]>",
    "é",
]


@given(st.sampled_from([DUMP, LAID_OUT]), st.data())
def test_what_is_taken_of_a_changed_document_is_read_alike(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        gone = data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(st.sampled_from(["", *PIECES])) + text[at + gone :]
    plain = read_plain(text.encode(), "f", 1, with_relations=True)
    assert plain is None or plain == parsed(text.encode())


@pytest.mark.parametrize(
    "start", ["biored/Dev", "pubtator_bulk/greenelab_batch_0", "pubtator_bulk/rdmpage_biocxml"]
)
def test_real_documents_are_taken_and_read_alike(corpora: Path, start: str) -> None:
    (path,) = corpora.glob(f"{start}*.[xX][mM][lL]")
    num_documents = num_plain = 0
    for chunk in read_chunks(path, Tally()):
        for piece in chunk.data.split(CLOSE + b">")[:-1]:
            data = piece[piece.index(OPEN) :] + CLOSE + b">"
            plain = read_plain(data, "f", 1, with_relations=True)
            assert plain is None or plain == parsed(data)
            num_documents += 1
            num_plain += plain is not None
    assert num_plain > 0.8 * num_documents
