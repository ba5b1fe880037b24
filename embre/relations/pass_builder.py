"""From a document to its candidate pairs as numbers, and to the micro-batch of fine-tuning.

    Document ──passes──▶ Pass: marked tokens, windows, pairs ──lay──▶ PairBatch

A pass is what the encoder reads for some pairs: the document with all its mentions marked and all
its pairs (`encoding: document`), or with those of one pair alone (`pairwise`).

Shapes: K mentions of concepts, P pairs, L labels.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from embre.config import PairConfig
from embre.corpora.assemble import as_checked
from embre.document import Concept, Document
from embre.relation_schema import RelationSchema
from embre.relations.markers import add_markers, cut_windows, mark, marker_ids
from embre.relations.pair_batch import PairBatch, lay
from embre.relations.pair_labels import label_pairs
from embre.relations.pair_location import PairLocator
from embre.relations.passes import (
    FARTHER,
    NEXT_SENTENCE,
    NUM_CODES,
    NUM_EIGHTHS,
    NUM_NEARNESS,
    NUM_SLOTS,
    NUM_SPECIAL,
    NUM_TIMES,
    RELATED,
    SAME_SENTENCE,
    UNLABELLED,
    UNRELATED,
    Pass,
)
from embre.shards.concept_hash import concept_hash
from embre.shards.encode import SKIPPED_KINDS, AnyTokenizer, encode_documents
from embre.tally import Tally
from embre.tokenization.tokenizer import TextTokenizer


class _Read(NamedTuple):
    """A document's tokens without markers; its mentions as (start, end, type, concept or None);
    its concepts; its candidate pairs, how they meet and their labels."""

    doc_id: str
    tokens: np.ndarray
    rows: list[tuple[int, int, int, Concept | None]]
    concepts: list[Concept]
    candidates: list[tuple[Concept, Concept]]
    locations: np.ndarray
    relation_labels: np.ndarray
    novelty_labels: np.ndarray


@dataclass(frozen=True, slots=True)
class PassBuilder:
    """Turns documents into numbers. The tokenizer has markers; texts are cut by `words`, the same
    or one that cuts alike and sooner; sizes are in tokens."""

    tokenizer: TextTokenizer
    words: AnyTokenizer
    schema: RelationSchema
    max_document_tokens: int
    config: PairConfig

    @classmethod
    def build(
        cls,
        tokenizer: TextTokenizer,
        schema: RelationSchema,
        max_document_tokens: int,
        config: PairConfig,
    ) -> "PassBuilder":
        """With markers added to a backbone's tokenizer, where it has none yet."""
        tokenizer = add_markers(tokenizer)
        return cls(tokenizer, tokenizer, schema, max_document_tokens, config)

    def passes(self, doc: Document, tally: Tally) -> Iterator[Pass]:
        """What is read to score all pairs of a document, in the order of pairs; nothing where it
        has none. What cannot be read or learnt from is counted in `tally`.

        One by one, because the passes of all pairs of a full text would fill gigabytes.
        """
        return (one for _, one in self.passes_of([doc], tally))

    def passes_of(self, docs: Sequence[Document], tally: Tally) -> Iterator[tuple[int, Pass]]:
        """The same of some documents, which are encoded together: each pass with the place of its
        document."""
        encoded = encode_documents([as_checked(doc) for doc in docs], self.words, tally)
        # A document without a token was left out.
        cuts = np.searchsorted(encoded.index, np.arange(1, len(docs)))
        tokens = np.split(encoded.tokens, encoded.token_starts[cuts])
        mentions = np.split(encoded.mentions, encoded.mention_starts[cuts])
        for place, doc in enumerate(docs):
            read = self._read(doc, tokens[place], mentions[place].tolist(), tally)
            every = range(len(read.candidates))
            if self.config.encoding == "pairwise":
                yield from ((place, self._pass_of_pair(read, number)) for number in every)
            elif every:
                yield place, self._pass(read, read.rows, read.concepts, every)

    def _read(
        self,
        doc: Document,
        tokens: np.ndarray,
        rows: Sequence[tuple[int, int, int, int]],
        tally: Tally,
    ) -> _Read:
        hashes = {value for *_, value in rows}
        concepts = ((concept_hash(concept), concept) for concept in doc.mentions_by_concept())
        known = {value: concept for value, concept in concepts if value in hashes}
        candidates = self._candidates(doc, set(known.values()), tally)
        relation_labels, novelty_labels = label_pairs(doc, self.schema, candidates, tally)
        if self.config.detection_head == "novelty":
            not_told = np.where(relation_labels == 0, UNRELATED, RELATED)
            novelty_labels = np.where(novelty_labels == UNLABELLED, not_told, novelty_labels)
        return _Read(
            doc.doc_id,
            tokens,
            [(start, end, kind, known.get(value)) for start, end, kind, value in rows],
            sorted(known.values()),
            candidates,
            _location_codes(doc, candidates),
            relation_labels,
            novelty_labels,
        )

    def _pass_of_pair(self, read: _Read, place: int) -> Pass:
        concepts = sorted(read.candidates[place])
        return self._pass(read, [row for row in read.rows if row[3] in concepts], concepts, [place])

    def _pass(
        self,
        read: _Read,
        rows: Sequence[tuple[int, int, int, Concept | None]],
        concepts: Sequence[Concept],
        wanted: Sequence[int],
    ) -> Pass:
        """The document with some mentions marked, and the wanted ones of its candidates."""
        index = {concept: place for place, concept in enumerate(concepts)}
        spans = sorted({(start, end, kind) for start, end, kind, _ in rows})
        marked, places = mark(read.tokens, spans, marker_ids(self.tokenizer))
        spots = dict(zip(spans, places.tolist(), strict=True))
        mentions = sorted(
            {
                (*spots[start, end, kind], index[concept])
                for start, end, kind, concept in rows
                if concept is not None
            }
        )
        size = self.max_document_tokens - NUM_SPECIAL
        windows = cut_windows(len(marked), places, size, self.config.window_overlap)
        candidates = [read.candidates[place] for place in wanted]
        return Pass(
            doc_id=read.doc_id,
            tokens=marked,
            roles=_roles(len(marked), [(*spots[s, e, k], k, c) for s, e, k, c in rows], index),
            windows=tuple(windows),
            mentions=_rows(mentions, 3),
            concepts=tuple(concepts),
            pairs=_rows([(index[a], index[b]) for a, b in candidates], 2),
            locations=read.locations[list(wanted)],
            legal=self._legal(candidates),
            relation_labels=read.relation_labels[list(wanted)],
            novelty_labels=read.novelty_labels[list(wanted)],
        )

    def lay(self, passes: Sequence[Pass], slot: int) -> PairBatch:
        """Some passes as a micro-batch.

        Without passes the strip is [CLS] [SEP] alone: a forward pass that changes nothing, for a
        rank that has fewer micro-batches than others.
        """
        return lay(passes or [self._nothing()], self.tokenizer, slot)

    def _nothing(self) -> Pass:
        none = np.zeros(0, dtype=np.int64)
        return Pass(
            doc_id="",
            tokens=none,
            roles=_rows([], 2),
            windows=((0, 0),),
            mentions=_rows([], 3),
            concepts=(),
            pairs=_rows([], 2),
            locations=_rows([], NUM_CODES),
            legal=self._legal([]),
            relation_labels=none,
            novelty_labels=none,
        )

    def _candidates(
        self, doc: Document, readable: set[Concept], tally: Tally
    ) -> list[tuple[Concept, Concept]]:
        found = []
        for first, second in self.schema.candidates(doc):
            if {first, second} <= readable:
                found.append((first, second))
            else:  # named only in a table or a bibliography, which is not read
                tally.drop("pair/concept_without_token", doc.doc_id, f"{first} {second}")
        return found

    def _legal(self, candidates: Sequence[tuple[Concept, Concept]]) -> np.ndarray:
        of_kind = {(first.type, second.type): (first, second) for first, second in candidates}
        allowed = [self.schema.legal_types(*pair) for pair in of_kind.values()]
        rows = [[True, *(t in types for t in self.schema.relation_types)] for types in allowed]
        number = {kind: row for row, kind in enumerate(of_kind)}
        wanted = [number[first.type, second.type] for first, second in candidates]
        return _rows(rows, len(self.schema.labels)).astype(bool)[wanted]


def _location_codes(doc: Document, candidates: Sequence[tuple[Concept, Concept]]) -> np.ndarray:
    """(P, 4) codes of how two concepts meet, as in `Pass`."""
    locator = PairLocator(_as_read(doc))
    met = [locator.locate(pair) for pair in candidates]
    shared, mentions = (
        np.array(column, dtype=np.int64)
        for column in ([place.shared for place in met], [place.mentions for place in met])
    )
    next_to = np.array([place.sentences == 1 for place in met], dtype=bool)
    near = np.where(next_to, NEXT_SENTENCE, FARTHER)
    near = np.where(shared > 0, np.minimum(SAME_SENTENCE - 1 + shared, NUM_NEARNESS - 1), near)
    ends = np.array([(place.first, place.last) for place in met]).reshape(-1, 2)
    eighths = np.minimum((ends * NUM_EIGHTHS).astype(np.int64), NUM_EIGHTHS - 1)
    return np.column_stack([near, np.minimum(mentions, NUM_TIMES - 1), eighths])


def _as_read(doc: Document) -> Document:
    """The document without the passages that are not encoded, and without their mentions."""
    passages = tuple(p for p in doc.passages if p.kind not in SKIPPED_KINDS)
    if len(passages) == len(doc.passages):
        return doc
    mentions = (
        m for m in doc.mentions if any(m.start < p.end and p.start < m.end for p in passages)
    )
    return replace(doc, passages=passages, mentions=tuple(mentions))


def _roles(
    num_tokens: int,
    mentions: Sequence[tuple[int, int, int, Concept | None]],
    index: Mapping[Concept, int],
) -> np.ndarray:
    """(n, 2) roles of tokens; of nested mentions the inner one counts."""
    times = Counter(index[concept] for *_, concept in mentions if concept is not None)
    slots = {place: slot for slot, (place, _) in enumerate(times.most_common(NUM_SLOTS))}
    roles = np.zeros((num_tokens, 2), dtype=np.int64)
    for start, end, kind, concept in sorted(
        mentions, key=lambda m: (m[0] - m[1], m[3] is not None)
    ):
        slot = -1 if concept is None else slots.get(index[concept], -1)
        roles[start:end] = kind + 1, slot + 1
    return roles


def _rows(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
    return np.array(rows, dtype=np.int64).reshape(-1, width)
