"""BioC-XML with other relations: of a document only its `<relation>` elements change."""

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
    """A `<document>` element, UTF-8, with the relations of `doc` in place of its own.

    All other bytes stay. Only where comments, processing
    instructions or CDATA stand in the document, or relations before its last passage, it is parsed
    and written anew: the same elements, attributes and texts, perhaps in other bytes.
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
    """A role is `Type|Identifier` in XML."""
    return escape(value if isinstance(value, str) else f"{value['type']}|{value['identifier']}")
