"""BioC-XML with other relations: only the `<relation>` elements of a document change."""

import re
from xml.sax.saxutils import escape

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

from embre.corpora.bioc import relation_infons
from embre.corpora.bioc_xml import CLOSE, make_parser
from embre.document import Document, Relation

_RELATION = re.compile(
    rb"""\s*<relation(?=[\s/>])(?:[^<>"']|"[^"]*"|'[^']*')*+(?:(?<=/)>|(?<!/)>.*?</relation\s*>)""",
    re.DOTALL,
)
_INDENT = re.compile(rb"\s*(?=<passage)")


def with_relations(document: bytes, doc: Document) -> bytes:
    """Replace the relations of a `<document>` element (UTF-8) by those of `doc`.

    All other bytes stay, unless the document contains comments, processing instructions or CDATA,
    or relations before its last passage: then it is parsed and serialized again, with equal
    elements, attributes and texts.
    """
    last_passage, first = document.rfind(b"</passage"), document.find(b"<relation")
    simple = b"<!" not in document and b"<?" not in document
    if not simple or 0 <= first < last_passage:
        return _parsed(document, doc)
    start, close = max(last_passage, 0), document.rfind(CLOSE)
    body = document[:start] + _RELATION.sub(b"", document[start:close])
    bare = body.rstrip()
    indent = _INDENT.search(document)
    before = indent[0] if indent else b""
    added = b"".join(before + _element(at, doc, one) for at, one in enumerate(doc.relations))
    return bare + added + body[len(bare) :] + document[close:]


def _parsed(document: bytes, doc: Document) -> bytes:
    root = etree.fromstring(document, make_parser(keep_comments=True))
    for relation in [*root.iter("relation")]:
        relation.getparent().remove(relation)
    for at, relation in enumerate(doc.relations):
        root.append(etree.fromstring(_element(at, doc, relation)))
    return etree.tostring(root, encoding="unicode").encode()


def _element(at: int, doc: Document, relation: Relation) -> bytes:
    infons = relation_infons(doc, relation).items()
    inner = "".join(f'<infon key="{key}">{_written(value)}</infon>' for key, value in infons)
    return f'<relation id="R{at}">{inner}</relation>'.encode()


def _written(value: str | dict[str, str]) -> str:
    """Format an infon value; a role is `Type|Identifier` in XML."""
    return escape(value if isinstance(value, str) else f"{value['type']}|{value['identifier']}")
