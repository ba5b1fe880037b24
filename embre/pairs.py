"""From a document to its candidate pairs as numbers, and to the micro-batch of fine-tuning.

    Document ──passes──▶ Pass: marked tokens, windows, pairs ──lay──▶ PairBatch

A pass is what the encoder reads for some pairs: the document with all its mentions marked and all
its pairs (`encoding: document`), or with those of one pair alone (`pairwise`).

Shapes: T tokens of the strip, W windows in it, N tokens of the passes (those that windows share
counted once), K mentions of concepts, C concepts, P pairs, L labels.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embre.concept_hash import concept_hash
from embre.config import PairConfig
from embre.document import Concept, Document
from embre.encode import as_checked, encode_documents
from embre.entity_types import TYPE_INDEX
from embre.markers import add_markers, cut_windows, mark, marker_ids
from embre.meeting import Places
from embre.passes import (
    FARTHER,
    NEXT_SENTENCE,
    NOT_NOVEL,
    NOVEL,
    NUM_NEARNESS,
    NUM_SLOTS,
    NUM_SPECIAL,
    NUM_TIMES,
    SAME_SENTENCE,
    UNLABELLED,
    UNRELATED,
    Candidate,
    Grids,
    PairBatch,
    Pass,
)
from embre.relation_schema import RelationSchema
from embre.tally import Tally
from embre.tokenization import TextTokenizer


class _Read(NamedTuple):
    """A document's tokens without markers; its mentions as (start, end, type, concept or None);
    its concepts; its candidate pairs, how they meet and their labels."""

    doc_id: str
    tokens: np.ndarray
    rows: list[tuple[int, int, int, Concept | None]]
    concepts: list[Concept]
    candidates: list[tuple[Concept, Concept]]
    meetings: np.ndarray
    relations: np.ndarray
    novelties: np.ndarray


@dataclass(frozen=True, slots=True)
class PairEncoder:
    """Turns documents into numbers. The tokenizer has markers; sizes are in tokens."""

    tokenizer: TextTokenizer
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
    ) -> "PairEncoder":
        """With markers added to a backbone's tokenizer, where it has none yet."""
        return cls(add_markers(tokenizer), schema, max_document_tokens, config)

    def passes(self, doc: Document, tally: Tally) -> list[Pass]:
        """What is read to score all pairs of a document, in the order of pairs; nothing where it
        has none. What cannot be read or learnt from is counted in `tally`."""
        read = self._read(doc, tally)
        every = range(len(read.candidates))
        if not every:
            return []
        if self.config.encoding == "document":
            return [self._pass(read, read.rows, read.concepts, every)]
        return [self._pass_of_pair(read, place) for place in every]

    def _read(self, doc: Document, tally: Tally) -> _Read:
        encoded = encode_documents([as_checked(doc)], self.tokenizer, tally)
        rows = encoded.mentions.tolist()
        hashes = {value for *_, value in rows}
        known = {concept_hash(c): c for c in doc.mentions_by_concept() if concept_hash(c) in hashes}
        candidates = self._candidates(doc, set(known.values()), tally)
        relations, novelties = label_pairs(doc, self.schema, candidates, tally)
        if self.config.novelty_of == "all" and self.schema.novelty:
            novelties = np.where(relations == 0, UNRELATED, novelties)
        return _Read(
            doc.doc_id,
            encoded.tokens,
            [(start, end, kind, known.get(value)) for start, end, kind, value in rows],
            sorted(known.values()),
            candidates,
            _meetings(doc, candidates),
            relations,
            novelties,
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
                (spots[start, end, kind][0], index[concept])
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
            mentions=_rows(mentions, 2),
            concepts=tuple(concepts),
            pairs=_rows([(index[a], index[b]) for a, b in candidates], 2),
            meetings=read.meetings[list(wanted)],
            legal=self._legal(candidates),
            relations=read.relations[list(wanted)],
            novelties=read.novelties[list(wanted)],
        )

    def lay(self, members: Sequence[Pass], slot: int) -> PairBatch:
        """The windows of some passes end to end, and all indices shifted to match.

        Without members the strip is [CLS] [SEP] alone: a forward pass that changes nothing, for a
        rank that has fewer micro-batches than others.
        """
        doc_ids = tuple(dict.fromkeys(member.doc_id for member in members))
        members = members or [self._nothing()]
        num_tokens = [len(member.tokens) + NUM_SPECIAL for member in members]
        num_concepts = [len(member.concepts) for member in members]
        num_pairs = [len(member.pairs) for member in members]
        most_pairs = max(num_pairs)
        token_starts, concept_starts = _starts(num_tokens), _starts(num_concepts)
        strips, roles, reads = [], [], []
        for member, shift in zip(members, token_starts, strict=True):
            last = len(member.tokens) + 1
            for start, end in member.windows:
                inside = member.tokens[start:end]
                strips.append(np.r_[self.tokenizer.first, inside, self.tokenizer.last])
                roles.append(np.pad(member.roles[start:end], ((1, 1), (0, 0))))
                reads.append(np.r_[0, start + 1 : end + 1, last] + shift)
        lengths = [len(strip) for strip in strips]
        shifts = np.stack([token_starts + 1, concept_starts], axis=1)  # 1: [CLS] comes first
        types = [TYPE_INDEX[concept.type] for member in members for concept in member.concepts]
        return PairBatch(
            input_ids=_tensor(strips),
            positions=_tensor([np.arange(length) for length in lengths]),
            roles=_tensor(roles),
            boundaries=torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)),
            longest=max(lengths),
            reads=_tensor(reads),
            mentions=_tensor(
                [m.mentions + shift for m, shift in zip(members, shifts, strict=True)]
            ),
            concept_types=torch.tensor(types, dtype=torch.int64),
            pairs=_tensor([m.pairs + s for m, s in zip(members, concept_starts, strict=True)]),
            meetings=_tensor([member.meetings for member in members]),
            legal=_tensor([member.legal for member in members]).bool(),
            relation_labels=_tensor([member.relations for member in members]),
            novelty_labels=_tensor([member.novelties for member in members]),
            num_read=sum(num_tokens),
            grids=Grids(
                _grid([s + np.arange(n) for s, n in zip(token_starts, num_tokens, strict=True)]),
                _grid(
                    [s + np.arange(n) for s, n in zip(concept_starts, num_concepts, strict=True)]
                ),
                _grid([member.pairs for member in members]),
                _tensor([d * most_pairs + np.arange(n) for d, n in enumerate(num_pairs)]),
                torch.from_numpy(np.repeat(np.arange(len(members)), num_concepts)),
            ),
            candidates=tuple(
                Candidate(number, member.concepts[first], member.concepts[second])
                for number, member in enumerate(members)
                for first, second in member.pairs.tolist()
            ),
            slot=slot,
            doc_ids=doc_ids,
        )

    def _nothing(self) -> Pass:
        empty, no_rows = np.zeros(0, dtype=np.int64), np.zeros((0, 2), dtype=np.int64)
        legal = self._legal([])
        return Pass(
            *("", empty, no_rows, ((0, 0),), no_rows, (), no_rows, no_rows, legal, empty, empty)
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
            novelties[row] = NOVEL if relation.novel else NOT_NOVEL
        if relation.type in schema.legal_types(*relation.pair):
            relations[row] = schema.labels.index(relation.type)
        else:
            relations[row] = UNLABELLED
            tally.drop("relation/illegal_type", doc.doc_id, place)
    return relations, novelties


def _meetings(doc: Document, candidates: Sequence[tuple[Concept, Concept]]) -> np.ndarray:
    """(P, 2) codes of how near two concepts come and of how often the rarer is mentioned."""
    places = Places(doc)
    found = []
    for pair in candidates:
        place = places.of(pair)
        near = NEXT_SENTENCE if place.sentences == 1 else FARTHER
        if place.shared:
            near = min(SAME_SENTENCE + place.shared - 1, NUM_NEARNESS - 1)
        found.append((near, min(place.mentions, NUM_TIMES - 1)))
    return _rows(found, 2)


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


def _starts(lengths: Sequence[int]) -> np.ndarray:
    return np.cumsum([0, *lengths[:-1]]).astype(np.int64)


def _grid(parts: Sequence[np.ndarray]) -> Tensor:
    """Parts as rows of one tensor, with -1 after the end of the shorter ones."""
    grid = np.full((len(parts), max(map(len, parts)), *parts[0].shape[1:]), -1, dtype=np.int64)
    for row, part in zip(grid, parts, strict=True):
        row[: len(part)] = part
    return torch.from_numpy(grid)


def _tensor(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
