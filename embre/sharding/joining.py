"""Join consecutive blocks with the same id, which are pieces of one article, into one document.

NLM-Chem's PubTator file has a block for each passage: 3,428 blocks of 50 articles.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby, islice

from embre.corpora.raw import CheckedDocument
from embre.tally import Tally


def join_pieces(docs: Iterable[CheckedDocument], tally: Tally) -> Iterator[CheckedDocument]:
    """Join the pieces of each article with a space, and count them in `tally`.

    A piece with the text of an earlier one is a duplicate and stays; `choose` removes it later.
    """
    for _, group in groupby(docs, key=lambda doc: (doc.file, doc.doc_id)):
        pieces: dict[str, CheckedDocument] = {}  # by text
        for piece in group:
            if pieces.setdefault(piece.text, piece) is not piece:
                yield piece
        for piece in islice(pieces.values(), 1, None):
            tally.drop("repaired/piece_joined", f"{piece.file}#{piece.doc_id}")
        yield _join([*pieces.values()])


def _join(pieces: list[CheckedDocument]) -> CheckedDocument:
    passages, mentions, shift = [], [], 0
    for number, piece in enumerate(pieces):
        for p in piece.passages:
            kind = "paragraph" if number and p.kind == "title" else p.kind
            passages.append(replace(p, start=p.start + shift, end=p.end + shift, kind=kind))
        mentions += [m._replace(start=m.start + shift, end=m.end + shift) for m in piece.mentions]
        shift += len(piece.text) + 1
    text = " ".join(piece.text for piece in pieces)
    return pieces[0]._replace(text=text, passages=tuple(passages), mentions=mentions)
