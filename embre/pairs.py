"""From a document to its candidate pairs as numbers, and to the micro-batch of fine-tuning.

    Document ──encode──▶ PairDocument: marked tokens, windows, pairs ──lay──▶ PairBatch

Shapes: T tokens of the strip, W windows in it, N tokens of the documents (those that windows
share counted once), K mentions of concepts, C concepts, P pairs, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embre.concept_hash import concept_hash
from embre.data_hash import data_hash
from embre.document import Concept, Document
from embre.encode import as_checked, encode_documents
from embre.entity_types import TYPE_INDEX
from embre.markers import Window, add_markers, cut_windows, mark, marker_ids
from embre.relation_schema import RelationSchema
from embre.tally import Tally
from embre.tokenization import TextTokenizer

UNLABELLED = -100  # the label that torch's cross-entropy leaves out
NUM_SPECIAL = 2  # [CLS] and [SEP] around every window


class Sizes(NamedTuple):
    """How much of a batch belongs to one document."""

    tokens: int
    mentions: int
    concepts: int
    pairs: int


class Candidate(NamedTuple):
    """A pair of a batch: which of its documents, and which two concepts."""

    document: int
    first: Concept
    second: Concept


@dataclass(frozen=True, slots=True)
class PairDocument:
    """One document as numbers.

    `tokens` (n,) are its ids with markers; `windows` are ranges of them; `mentions` (K, 2) say
    where a start marker stands and which concept it marks; `pairs` (P, 2) are concepts, `legal`
    (P, L) the labels a pair may have, `relations` (P,) and `novelties` (P,) those it has.
    """

    tokens: np.ndarray
    windows: tuple[Window, ...]
    mentions: np.ndarray
    concepts: tuple[Concept, ...]
    pairs: np.ndarray
    legal: np.ndarray
    relations: np.ndarray
    novelties: np.ndarray


@dataclass(frozen=True, slots=True)
class PairBatch:
    """One micro-batch of fine-tuning: the windows of some documents end to end in a strip.

    `input_ids`, `positions` (T,); `boundaries` (W + 1,) where each window starts and the last
    ends; `longest` tokens of the longest. `reads` (T,) says which of the N document tokens each
    token of the strip is; [CLS] and [SEP] of a document's windows are the same two. `mentions`
    (K, 2) are document token and concept; `concept_types` (C,); `pairs` (P, 2) are concepts;
    `legal` (P, L) the labels allowed. `relation_labels` (P,) has 0 for None, `novelty_labels`
    (P,) 1 for novel and 0 for not; both UNLABELLED where nobody knows. `sizes` are the documents'
    shares, in order. `slot` is the place in the step (-1: empty).
    """

    input_ids: Tensor
    positions: Tensor
    boundaries: Tensor
    longest: int
    reads: Tensor
    mentions: Tensor
    concept_types: Tensor
    pairs: Tensor
    legal: Tensor
    relation_labels: Tensor
    novelty_labels: Tensor
    sizes: tuple[Sizes, ...]
    candidates: tuple[Candidate, ...]
    slot: int

    @property
    def counts(self) -> dict[str, int]:
        """Targets of each loss."""
        return {
            "relation": int((self.relation_labels != UNLABELLED).sum()),
            "novelty": int((self.novelty_labels != UNLABELLED).sum()),
        }

    @property
    def num_tokens(self) -> int:
        """Tokens of the strip; an empty micro-batch counts for none."""
        return len(self.input_ids) if self.slot >= 0 else 0

    @property
    def data_hash(self) -> int:
        """32 bits of tokens and labels, as they lie on the CPU."""
        labels = (self.relation_labels, self.novelty_labels)
        return data_hash(self.slot, (self.input_ids, self.boundaries, self.pairs, *labels))

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on a device."""
        if self.input_ids.device == device:
            return self
        values = {name: getattr(self, name) for name in self.__slots__}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        moved = {name: value.to(device, non_blocking=True) for name, value in tensors.items()}
        return replace(self, **moved)


@dataclass(frozen=True, slots=True)
class PairEncoder:
    """Turns documents into numbers. The tokenizer has markers; sizes are in tokens."""

    tokenizer: TextTokenizer
    schema: RelationSchema
    max_document_tokens: int
    window_overlap: int

    @classmethod
    def build(
        cls,
        tokenizer: TextTokenizer,
        schema: RelationSchema,
        max_document_tokens: int,
        window_overlap: int,
    ) -> "PairEncoder":
        """With markers added to a backbone's tokenizer, where it has none yet."""
        return cls(add_markers(tokenizer), schema, max_document_tokens, window_overlap)

    def encode(self, doc: Document, tally: Tally) -> PairDocument:
        """One document as numbers; what cannot be read or learnt from is counted in `tally`."""
        encoded = encode_documents([as_checked(doc)], self.tokenizer, tally)
        rows, tokens = encoded.mentions.tolist(), encoded.tokens
        spans = sorted({(start, end, kind) for start, end, kind, _ in rows})
        marked, places = mark(tokens, spans, marker_ids(self.tokenizer))
        spots = dict(zip(spans, places[:, 0].tolist(), strict=True))
        size = self.max_document_tokens - NUM_SPECIAL
        windows = cut_windows(len(marked), places, size, self.window_overlap)

        hashes = {value for *_, value in rows}
        known = {concept_hash(c): c for c in doc.mentions_by_concept() if concept_hash(c) in hashes}
        concepts = sorted(known.values())
        index = {value: concepts.index(concept) for value, concept in known.items()}
        found = {(spots[s, e, kind], index[value]) for s, e, kind, value in rows if value in index}
        candidates = self._candidates(doc, set(concepts), tally)
        relations, novelties = label_pairs(doc, self.schema, candidates, tally)
        return PairDocument(
            tokens=marked,
            windows=tuple(windows),
            mentions=_rows(sorted(found), 2),
            concepts=tuple(concepts),
            pairs=_rows([(concepts.index(a), concepts.index(b)) for a, b in candidates], 2),
            legal=self._legal(candidates),
            relations=relations,
            novelties=novelties,
        )

    def lay(self, members: Sequence[PairDocument], slot: int) -> PairBatch:
        """The windows of some documents end to end, and all indices shifted to match.

        Without members the strip is [CLS] [SEP] alone: a forward pass that changes nothing, for a
        rank that has fewer micro-batches than others.
        """
        members = members or [self._nothing()]
        sizes = [
            Sizes(len(m.tokens) + NUM_SPECIAL, len(m.mentions), len(m.concepts), len(m.pairs))
            for m in members
        ]
        token_starts = _starts([size.tokens for size in sizes])
        concept_starts = _starts([size.concepts for size in sizes])
        strips, reads = [], []
        for member, shift in zip(members, token_starts, strict=True):
            last = len(member.tokens) + 1
            for start, end in member.windows:
                inside = member.tokens[start:end]
                strips.append(np.r_[self.tokenizer.first, inside, self.tokenizer.last])
                reads.append(np.r_[0, start + 1 : end + 1, last] + shift)
        lengths = [len(strip) for strip in strips]
        shifts = np.stack([token_starts + 1, concept_starts], axis=1)  # 1: [CLS] comes first
        types = [TYPE_INDEX[concept.type] for member in members for concept in member.concepts]
        return PairBatch(
            input_ids=_tensor(strips),
            positions=_tensor([np.arange(length) for length in lengths]),
            boundaries=torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)),
            longest=max(lengths),
            reads=_tensor(reads),
            mentions=_tensor(
                [m.mentions + shift for m, shift in zip(members, shifts, strict=True)]
            ),
            concept_types=torch.tensor(types, dtype=torch.int64),
            pairs=_tensor([m.pairs + s for m, s in zip(members, concept_starts, strict=True)]),
            legal=_tensor([member.legal for member in members]).bool(),
            relation_labels=_tensor([member.relations for member in members]),
            novelty_labels=_tensor([member.novelties for member in members]),
            sizes=tuple(sizes),
            candidates=tuple(
                Candidate(number, member.concepts[first], member.concepts[second])
                for number, member in enumerate(members)
                for first, second in member.pairs.tolist()
            ),
            slot=slot,
        )

    def _nothing(self) -> PairDocument:
        empty, no_pairs = np.zeros(0, dtype=np.int64), np.zeros((0, 2), dtype=np.int64)
        return PairDocument(empty, ((0, 0),), no_pairs, (), no_pairs, self._legal([]), empty, empty)

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
        allowed = [self.schema.legal_types(first, second) for first, second in candidates]
        rows = [[True, *(t in types for t in self.schema.relation_types)] for types in allowed]
        return _rows(rows, len(self.schema.labels)).astype(bool)


def label_pairs(
    doc: Document,
    schema: RelationSchema,
    candidates: Sequence[tuple[Concept, Concept]],
    tally: Tally,
) -> tuple[np.ndarray, np.ndarray]:
    """Relation and novelty labels (P,) of the candidates, from the document's relations.

    A relation that no candidate can hold is counted and left out. One of a type that is illegal
    for its pair leaves the pair without relation label: it is related, but not as the schema says.
    """
    index = {pair: row for row, pair in enumerate(candidates)}
    relations = np.zeros(len(candidates), dtype=np.int64)
    novelties = np.full(len(candidates), UNLABELLED, dtype=np.int64)
    labelled = set()
    for relation in doc.relations:
        place = f"{relation.head} {relation.type} {relation.tail}"
        row = index.get(relation.pair)
        if row is None:
            why = "with_itself" if relation.head == relation.tail else "not_a_candidate_pair"
            tally.drop(f"relation/{why}", doc.doc_id, place)
            continue
        if row in labelled:
            tally.drop("relation/second_of_its_pair", doc.doc_id, place)
            continue
        labelled.add(row)
        if relation.novel is not None:
            novelties[row] = int(relation.novel)
        if relation.type in schema.legal_types(*relation.pair):
            relations[row] = schema.labels.index(relation.type)
        else:
            relations[row] = UNLABELLED
            tally.drop("relation/illegal_type", doc.doc_id, place)
    return relations, novelties


def _rows(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def _starts(lengths: Sequence[int]) -> np.ndarray:
    return np.cumsum([0, *lengths[:-1]]).astype(np.int64)


def _tensor(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
