"""Fast path for BioC-XML: read a document as PubTator writes it by regular expressions.

Only documents of exactly these elements in this order are read here; others are left to the
parser, which is four times slower and gives equal results.
"""

import re
from itertools import chain

from embre.corpora.bioc import ids_of, kind_of, meaning_of, relation_of
from embre.corpora.raw import RawDocument, RawMention, RawPassage, RawRelation

_SPACE = r"[ \t\n]*"
_ID = r'(?: id="[^"<&\t\n]*")?'
_INFONS = rf'((?:<infon key="[^"<&\t\n]*">[^<]*</infon>{_SPACE})*)'
_NUMBER = r'"([0-9]{1,9})"'
_INFON = re.compile(r'<infon key="([^"]*)">([^<]*)</infon>')
_DOCUMENT = re.compile(rf"<document>{_SPACE}<id>([^<]*)</id>{_SPACE}{_INFONS}")
_PASSAGE = re.compile(
    rf"<passage>{_SPACE}{_INFONS}<offset>([0-9]{{1,9}})</offset>{_SPACE}"
    rf"(?:<text>([^<]*)</text>{_SPACE})?"
)
_ANNOTATION = re.compile(
    rf"<annotation{_ID}>{_SPACE}{_INFONS}<location (?:offset={_NUMBER} length={_NUMBER}|"
    rf"length={_NUMBER} offset={_NUMBER})[ ]?/>{_SPACE}<text>([^<]*)</text>{_SPACE}"
    rf"</annotation>{_SPACE}"
)
# As in the dump, without spaces between; `_FIXED` is the length of all text outside groups.
_USUAL = re.compile(
    r'<annotation id="([^"<&\t\n]*)">(<infon key="identifier">[^<]*</infon>)?'
    r'<infon key="type">([^<]*)</infon>(<infon key="NCBI Homologene">[^<]*</infon>)?'
    r'<location offset="([0-9]{1,9})" length="([0-9]{1,9})"/><text>([^<]*)</text></annotation>'
)
_FIXED = len(
    '<annotation id=""><infon key="type"></infon><location offset="" length=""/>'
    "<text></text></annotation>"
)
_BEFORE, _BEHIND = len('<infon key="identifier">'), -len("</infon>")
_RELATION = re.compile(
    rf'<relation{_ID}>{_SPACE}{_INFONS}((?:<node(?: [a-z]+="[^"<&\t\n]*")*[ ]?/>{_SPACE})*)'
    rf"</relation>{_SPACE}"
)
_PASSAGE_END = re.compile(rf"</passage>{_SPACE}")

_LARGEST = 4 << 20  # bytes; larger documents meet the parser's own limits
# Bytes outside these are forbidden or normalized by XML, or need a closer check.
_COMMON = bytes({9, 10, *range(32, 256)} - {0xEF})
_OTHER_ENTITY = re.compile(r"&(?!(?:lt|gt|amp|quot|apos);)")


def read_plain(data: bytes, file: str, line: int, with_relations: bool) -> RawDocument | None:
    """Read the document; None if it is not plain."""
    text = _decoded(data)
    head = text and _DOCUMENT.match(text)
    if not head or not (doc_id := _unescape(head[1]).strip()):
        return None
    escaped = "&" in text
    place = f"{line}#{doc_id}"
    at = head.end()
    passages: list[RawPassage] = []
    mentions: list[RawMention] = []
    relations: list[RawRelation] = []
    front: dict[str, str] = {}
    while found := _PASSAGE.match(text, at):
        infons = _infons(found[1], escaped)
        front = front or infons
        kind = kind_of(infons.get("type", ""), not passages)
        passage_text = _unescape(found[3] or "")
        passages.append(
            RawPassage(int(found[2]), passage_text, kind, infons.get("section_type", ""))
        )
        at = _read_annotations(text, found.end(), mentions, place, escaped)
        if not (end := _PASSAGE_END.match(text, at)):
            return None
        at = end.end()
    while found := _RELATION.match(text, at):
        if with_relations:
            relation = relation_of(_infons(found[1], escaped), (), {}, place)
            if found[2] and not relation.head[1]:
                return None  # its nodes name annotations
            relations.append(relation)
        at = found.end()
    if text[at:] != "</document>":
        return None
    pmid, pmc = front.get("article-id_pmid", ""), front.get("article-id_pmc", "")
    return RawDocument(*ids_of(doc_id, pmid, (pmc,)), passages, mentions, relations, file)


def _decoded(data: bytes) -> str:
    """The document as text; '' if it has what only the parser may read."""
    if len(data) > _LARGEST or b"]]>" in data or data.translate(None, _COMMON):
        return ""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return ""
    return "" if "&" in text and _OTHER_ENTITY.search(text) else text


def _read_annotations(
    text: str, at: int, mentions: list[RawMention], place: str, escaped: bool
) -> int:
    new, match, pairs_of = tuple.__new__, _ANNOTATION.match, _INFON.findall
    end = text.find("</passage>", at)
    rows = _USUAL.findall(text, at, end)
    if rows and sum(map(len, chain.from_iterable(rows))) + _FIXED * len(rows) == end - at:
        # They leave out nothing: all annotations are as usual.
        for _, identifier, source_type, _, offset, length, surface in rows:
            start = int(offset)
            names = surface, source_type, identifier[_BEFORE:_BEHIND]
            if escaped:
                names = map(_unescape, names)
            mentions.append(new(RawMention, (start, start + int(length), *names, place)))
        return end
    while found := match(text, at):
        infons, offset, length, length_first, offset_last, surface = found.groups()
        start = int(offset or offset_last)
        end = start + int(length or length_first)
        source_type, identifier = meaning_of(pairs_of(infons))
        if escaped:
            values = (_unescape(value) for value in (surface, source_type, identifier))
            mentions.append(new(RawMention, (start, end, *values, place)))
        else:
            mentions.append(new(RawMention, (start, end, surface, source_type, identifier, place)))
        at = found.end()
    return at


def _infons(text: str, escaped: bool) -> dict[str, str]:
    infons = dict(_INFON.findall(text))
    return {key: _unescape(value) for key, value in infons.items()} if escaped else infons


def _unescape(text: str) -> str:
    if "&" not in text:
        return text
    for entity, character in (("lt", "<"), ("gt", ">"), ("quot", '"'), ("apos", "'"), ("amp", "&")):
        text = text.replace(f"&{entity};", character)
    return text
