"""From a document to its passes, and to the micro-batch of fine-tuning.

    Document ──passes──▶ Pass: marked tokens, windows, labelled pairs ──collate──▶ PairBatch

Shapes: K mentions of concepts, P pairs, L labels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from embre.config import PairConfig
from embre.corpora.assemble import as_checked
from embre.document import Concept, Document
from embre.relation_schema import RelationSchema
from embre.relations.entity_attention import CodedMention, entity_codes
from embre.relations.location_codes import NUM_LOCATION_CODES, location_codes
from embre.relations.markers import add_markers, cut_windows, mark, marker_ids
from embre.relations.pair_batch import PairBatch, collate
from embre.relations.pair_labels import label_pairs
from embre.relations.passes import NUM_SPECIAL, Pass
from embre.shards.concept_hash import concept_hash
from embre.shards.encode import AnyTokenizer, encode_documents
from embre.tally import Tally
from embre.tokenization.tokenizer import TextTokenizer


class _EncodedDocument(NamedTuple):
    """A document's tokens without markers, its mentions over them, its concepts, and its candidate
    pairs with their location codes and labels."""

    doc_id: str
    tokens: np.ndarray
    mentions: list[CodedMention]
    concepts: list[Concept]
    candidates: list[tuple[Concept, Concept]]
    locations: np.ndarray
    relation_labels: np.ndarray
    novelty_labels: np.ndarray


@dataclass(frozen=True, slots=True)
class PassBuilder:
    """Turns documents into passes, and passes into micro-batches.

    `tokenizer` has the markers; `words` tokenises the text, with the same result (the same
    tokenizer or a faster one). `max_document_tokens` is the maximum length of a window, [CLS] and
    [SEP] included.
    """

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
        """With markers added to a backbone's tokenizer, unless it has them already."""
        tokenizer = add_markers(tokenizer)
        return cls(tokenizer, tokenizer, schema, max_document_tokens, config)

    def passes(self, doc: Document, tally: Tally) -> Iterator[Pass]:
        """Yield the passes of a document, which together have all its candidate pairs, in order.

        Items that cannot be encoded or learnt from are counted in `tally`. One at a time, because
        all pairwise passes of a full text would take gigabytes.
        """
        return (one for _, one in self.passes_of([doc], tally))

    def passes_of(self, docs: Sequence[Document], tally: Tally) -> Iterator[tuple[int, Pass]]:
        """Yield the passes of several documents, tokenised together, each with the index of its
        document."""
        encoded = encode_documents([as_checked(doc) for doc in docs], self.words, tally)
        # `encoded` lacks documents without tokens; they get empty parts here.
        cuts = np.searchsorted(encoded.index, np.arange(1, len(docs)))
        tokens = np.split(encoded.tokens, encoded.token_starts[cuts])
        mentions = np.split(encoded.mentions, encoded.mention_starts[cuts])
        for index, doc in enumerate(docs):
            read = self._encode(doc, tokens[index], mentions[index].tolist(), tally)
            pairs = range(len(read.candidates))
            if self.config.encoding == "pairwise":
                yield from ((index, self._pass_of_pair(read, pair)) for pair in pairs)
            elif pairs:
                yield index, self._pass(read, read.mentions, read.concepts, pairs)

    def collate(self, passes: Sequence[Pass], slot: int) -> PairBatch:
        """Some passes as the micro-batch `slot` of a step.

        Without passes it has [CLS] and [SEP] only and no target, for a rank that has fewer
        micro-batches than others.
        """
        return collate(passes or [self._empty_pass()], self.tokenizer, slot)

    def _encode(
        self,
        doc: Document,
        tokens: np.ndarray,
        rows: Sequence[tuple[int, int, int, int]],
        tally: Tally,
    ) -> _EncodedDocument:
        """`rows` are the mentions over `tokens` as start, end, type and hash of the concept."""
        hashes = {value for *_, value in rows}
        concepts = ((concept_hash(concept), concept) for concept in doc.mentions_by_concept())
        known = {value: concept for value, concept in concepts if value in hashes}
        candidates = self._candidates(doc, set(known.values()), tally)
        label_all = self.config.detection_head == "novelty"
        return _EncodedDocument(
            doc.doc_id,
            tokens,
            [(start, end, kind, known.get(value)) for start, end, kind, value in rows],
            sorted(known.values()),
            candidates,
            location_codes(doc, candidates),
            *label_pairs(doc, self.schema, candidates, tally, label_all),
        )

    def _pass_of_pair(self, read: _EncodedDocument, pair: int) -> Pass:
        concepts = sorted(read.candidates[pair])
        mentions = [mention for mention in read.mentions if mention[3] in concepts]
        return self._pass(read, mentions, concepts, [pair])

    def _pass(
        self,
        read: _EncodedDocument,
        mentions: Sequence[CodedMention],
        concepts: Sequence[Concept],
        pairs: Sequence[int],
    ) -> Pass:
        """The document with `mentions` marked, and the candidates with the indices `pairs`."""
        index = {concept: number for number, concept in enumerate(concepts)}
        spans = sorted({(start, end, kind) for start, end, kind, _ in mentions})
        tokens, marked_spans = mark(read.tokens, spans, marker_ids(self.tokenizer))
        marked = dict(zip(spans, marked_spans.tolist(), strict=True))
        of_concepts = {
            (*marked[start, end, kind], index[concept])
            for start, end, kind, concept in mentions
            if concept is not None
        }
        size = self.max_document_tokens - NUM_SPECIAL
        windows = cut_windows(len(tokens), marked_spans, size, self.config.window_overlap)
        candidates = [read.candidates[pair] for pair in pairs]
        return Pass(
            doc_id=read.doc_id,
            tokens=tokens,
            entity_codes=entity_codes(
                len(tokens), [(*marked[s, e, kind], kind, c) for s, e, kind, c in mentions]
            ),
            windows=tuple(windows),
            mentions=_integers(sorted(of_concepts), 3),
            concepts=tuple(concepts),
            pairs=_integers([(index[a], index[b]) for a, b in candidates], 2),
            locations=read.locations[list(pairs)],
            legal=self._legal(candidates),
            relation_labels=read.relation_labels[list(pairs)],
            novelty_labels=read.novelty_labels[list(pairs)],
        )

    def _empty_pass(self) -> Pass:
        none = np.zeros(0, dtype=np.int64)
        return Pass(
            doc_id="",
            tokens=none,
            entity_codes=_integers([], 2),
            windows=((0, 0),),
            mentions=_integers([], 3),
            concepts=(),
            pairs=_integers([], 2),
            locations=_integers([], NUM_LOCATION_CODES),
            legal=self._legal([]),
            relation_labels=none,
            novelty_labels=none,
        )

    def _candidates(
        self, doc: Document, encoded: set[Concept], tally: Tally
    ) -> list[tuple[Concept, Concept]]:
        """The schema's candidate pairs of which both concepts have a token."""
        found = []
        for first, second in self.schema.candidates(doc):
            if {first, second} <= encoded:
                found.append((first, second))
            else:  # mentioned only in tables or references, which are not encoded
                tally.drop("pair/concept_without_token", doc.doc_id, f"{first} {second}")
        return found

    def _legal(self, candidates: Sequence[tuple[Concept, Concept]]) -> np.ndarray:
        """(P, L) which labels each pair may have; None always. Computed once per pair of types."""
        of_types = {(first.type, second.type): (first, second) for first, second in candidates}
        allowed = [self.schema.legal_types(*pair) for pair in of_types.values()]
        rows = [[True, *(t in types for t in self.schema.relation_types)] for types in allowed]
        row_of = {types: row for row, types in enumerate(of_types)}
        chosen = [row_of[first.type, second.type] for first, second in candidates]
        return _integers(rows, len(self.schema.labels)).astype(bool)[chosen]


def _integers(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
    return np.array(rows, dtype=np.int64).reshape(-1, width)
