"""BioC-XML: one `<document>` at a time out of a collection of any size."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec
from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

from embre.corpora.bioc import BiocDocument, Infons, build
from embre.document import Document
from embre.tally import Tally


def read(stream: BinaryIO, file: str, tally: Tally) -> Iterator[Document]:
    """Every document up to the end, or up to where the XML breaks, which is counted."""
    # libxml2 guards against bombs as long as huge_tree is off; nothing outside is ever fetched.
    events = etree.iterparse(
        stream,
        events=("start", "end"),
        tag=("collection", "document"),
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        recover=False,
    )
    try:
        for event, element in events:
            if event == "start":
                if element.tag == "collection" and _declares_entities(element):
                    tally.drop("file/declares_entities", file, "a document type with entities")
                    return
            elif element.tag == "document":
                yield from _read_document(element, file, tally)
                _forget(element)
    except etree.XMLSyntaxError as error:
        tally.drop("file/broken_xml", f"{file}:{error.lineno}", str(error))


def _declares_entities(element: Any) -> bool:
    dtd = element.getroottree().docinfo.internalDTD
    return dtd is not None and any(True for _ in dtd.iterentities())


def _forget(element: Any) -> None:
    """Free a document and what came before it; a dump's collection is 15 MB and more."""
    element.clear()
    parent = element.getparent()
    while parent is not None and element.getprevious() is not None:
        del parent[0]


def _read_document(element: Any, file: str, tally: Tally) -> Iterator[Document]:
    line = element.sourceline
    try:
        bioc = msgspec.convert(_as_json(element), BiocDocument, strict=False)
    except msgspec.ValidationError as error:
        tally.drop("document/unreadable", f"{file}:{line}", str(error))
    else:
        yield build(bioc, file, line, tally)


def _as_json(document: Any) -> dict[str, Any]:
    """The element in the shape of BioC-JSON, unchecked."""
    return {
        "id": document.findtext("id"),
        "passages": [_passage(passage) for passage in document.iterchildren("passage")],
        "relations": [
            {"infons": _infons(relation)} for relation in document.iterchildren("relation")
        ],
    }


def _passage(passage: Any) -> dict[str, Any]:
    return {
        "offset": passage.findtext("offset"),
        "text": passage.findtext("text"),
        "infons": _infons(passage),
        "annotations": [
            {
                "infons": _infons(annotation),
                "text": annotation.findtext("text"),
                "locations": [dict(place.attrib) for place in annotation.iterchildren("location")],
            }
            for annotation in passage.iterchildren("annotation")
        ],
    }


def _infons(element: Any) -> Infons:
    return {infon.get("key"): infon.text or "" for infon in element.iterchildren("infon")}
