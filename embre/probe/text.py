"""Predict the concepts of the mentions that are hidden in a text.

text ─parse─▶ MarkedText ─hide─▶ Batch ─PretrainingModel─▶ vectors ─EntityHead─▶ Answer…
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from embre.config import MaskingConfig
from embre.entity_types import TYPE_INDEX
from embre.model.concept_table import ConceptTable
from embre.model.encoder_folder import PretrainedEncoder
from embre.model.heads import EntityHead
from embre.probe.marked_text import SYNTAX, Hidden, parse
from embre.refused import Refused
from embre.shards.entities import EntityVocabulary
from embre.shards.mention_row import MENTION_ROW
from embre.stream.batch import Batch, make_batch
from embre.stream.examples import Examples
from embre.stream.layout import NUM_SPECIAL, BatchSettings
from embre.stream.source import StreamState
from embre.tokenization.tokenizer import Pieces

ALL_MENTIONS = MaskingConfig(
    objective="entity", unit="mention", entity_rate=1, replace_share=0, keep_share=0
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A concept with its probability; `name` is its most frequent surface form, `count` its number
    of mentions in the shard set of the encoder."""

    probability: float
    type: str
    identifier: str
    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The prediction for a hidden mention: P(type) of every type, and the most likely concepts.

    A candidate's probability is P(identifier | type) if the type was given, otherwise
    P(type) · P(identifier | type).
    """

    hidden: Hidden
    num_pieces: int
    types: dict[str, float]
    candidates: tuple[Candidate, ...]


def probe_text(encoder: PretrainedEncoder, text: str, top: int) -> list[Answer]:
    """Predict each hidden mention of a text, in order, with the `top` most likely concepts.

    Raises Refused if the text hides nothing, names an unknown type or is too long.
    """
    marked = parse(text)
    for hidden in marked.hidden:
        _check_known(hidden, encoder.entities)
    pieces = encoder.tokenizer.encode(marked.segments)
    batch = hide(pieces, encoder)
    device = next(encoder.model.parameters()).device
    with torch.inference_mode():
        _, vectors_MH = encoder.model.hidden_targets(batch.to(device))
        found = [probabilities(encoder.model.entity_head, vector_H) for vector_H in vectors_MH]
    lengths = np.diff(pieces.first)[1::2].tolist()
    return [
        _answer(encoder.entities, *prediction, top)
        for prediction in zip(marked.hidden, lengths, found, strict=True)
    ]


def hide(pieces: Pieces, encoder: PretrainedEncoder) -> Batch:
    """Make the micro-batch of one text in which every second segment is hidden.

    Each segment was tokenized separately, so the visible tokens do not depend on the hidden names.
    Raises Refused if the text is too long or a hidden segment has no token.
    """
    num_tokens = len(pieces.ids) + NUM_SPECIAL
    if num_tokens > encoder.max_tokens:
        raise Refused(
            f"the text has {num_tokens} tokens and the encoder reads at most {encoder.max_tokens}; "
            "shorten it"
        )
    # No concept and one type for all: nothing about them leaks, and their order is kept.
    rows = np.zeros(len(pieces.first) // 2 - 1, dtype=MENTION_ROW)
    rows["start"], rows["end"] = pieces.first[1:-1:2], pieces.first[2::2]
    if np.any(rows["start"] == rows["end"]):
        raise Refused(f"a mark in the text hides no word piece; {SYNTAX}")
    members = Examples(
        doc_ids=["text"],
        tokens=pieces.ids,
        token_starts=np.array([0, len(pieces.ids)]),
        mentions=rows,
        mention_starts=np.array([0, len(rows)]),
        offsets=np.zeros(1, dtype=np.int64),
        keys=np.zeros(1, dtype=np.uint64),
    )
    settings = BatchSettings.of(
        encoder.tokenizer,
        strip_tokens=num_tokens,
        max_document_tokens=num_tokens,
        masking=ALL_MENTIONS,
        entities=encoder.entities,
    )
    return make_batch(settings, members, 0, StreamState())


def probabilities(head: EntityHead, vector_H: Tensor) -> tuple[Tensor, Tensor]:
    """(T,) P(type) of a hidden mention, and (V,) P(identifier | type) of all concepts, summing to 1
    within each type."""
    table = head.concepts
    assert isinstance(table, ConceptTable)
    found_C, sizes = head.project(vector_H), list(table.sizes)
    logits_V = table.weight[: sum(sizes)] @ found_C  # an empty table has one unused row
    within = [part.softmax(0) for part in logits_V.split(sizes)]
    return head.types(found_C).softmax(0), torch.cat(within)


def _answer(
    entities: EntityVocabulary,
    hidden: Hidden,
    num_pieces: int,
    found: tuple[Tensor, Tensor],
    top: int,
) -> Answer:
    types_T, within_V = found
    if hidden.type is None:
        first = 0
        sizes = types_T.new_tensor(entities.sizes, dtype=torch.int64)
        among = within_V * types_T.repeat_interleave(sizes)
    else:
        number = TYPE_INDEX[hidden.type]
        first = int(entities.firsts[number])
        among = within_V[first : first + entities.sizes[number]]
    best = among.topk(min(top, len(among)))
    candidates = []
    for probability, spot in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        row = entities.row(first + spot)
        of = {name: row[name] for name in ("type", "identifier", "name", "count")}
        candidates.append(Candidate(probability, **of))
    types = dict(zip(TYPE_INDEX, types_T.tolist(), strict=True))
    return Answer(hidden, num_pieces, types, tuple(candidates))


def _check_known(hidden: Hidden, entities: EntityVocabulary) -> None:
    if hidden.type is not None and not entities.sizes[TYPE_INDEX[hidden.type]]:
        raise Refused(
            f"[[{hidden.surface}|{hidden.type}]]: the encoder has no concept of this type; "
            f"leave the type out: [[{hidden.surface}]]"
        )
