"""The micro-batch of fine-tuning: the windows of some passes end to end in a strip.

Shapes: T tokens of the strip, W windows, N tokens of the passes (each once, [CLS] and [SEP] of
every pass included), K mentions of concepts, C concepts, P pairs, L labels; D passes with at most n
tokens, c concepts and p pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embre.data_hash import data_hash
from embre.document import Concept
from embre.entity_types import TYPE_INDEX
from embre.relations.pair_labels import UNLABELLED
from embre.relations.passes import NUM_SPECIAL, Pass
from embre.tokenization.tokenizer import TextTokenizer


class PassIndices(NamedTuple):
    """The tokens, concepts and pairs of each pass, padded with -1.

    - `tokens` (D, n): indices in N
    - `concepts` (D, c): indices in C
    - `pairs` (D, p, 2): columns of `concepts`
    - `pair_rows` (P,): the index of each pair in the flattened D · p
    - `pass_of_concept` (C,): indices in D
    """

    tokens: Tensor
    concepts: Tensor
    pairs: Tensor
    pair_rows: Tensor
    pass_of_concept: Tensor


@dataclass(frozen=True, slots=True)
class PairBatch:
    """A micro-batch as tensors.

    - `input_ids`, `position_ids` (T,)
    - `entity_codes` (T, 2): as in `Pass`; 0 for [CLS] and [SEP]
    - `cu_seqlens` (W + 1,): cumulative window lengths, from 0 to T; `max_seqlen` is the longest
    - `token_index` (T,): index in N of each token of the strip. Overlapping windows share tokens,
      and all windows of a pass its [CLS] and [SEP]
    - `mentions` (K, 3): start and end in N, index in C
    - `concept_types` (C,): indices in ENTITY_TYPES
    - `pairs` (P, 2): indices in C
    - `locations` (P, 4), `legal` (P, L), `relation_labels`, `novelty_labels` (P,): as in `Pass`
    - `num_pass_tokens`: N
    - `num_mention_tokens`: total length of the mentions
    - `indices`: what belongs to which pass
    - `concept_pairs`: the concepts of each pair
    - `slot`: the number of the micro-batch in its step, -1 for an empty one
    - `doc_ids`: the documents in it
    """

    input_ids: Tensor
    position_ids: Tensor
    entity_codes: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    token_index: Tensor
    mentions: Tensor
    concept_types: Tensor
    pairs: Tensor
    locations: Tensor
    legal: Tensor
    relation_labels: Tensor
    novelty_labels: Tensor
    num_pass_tokens: int
    num_mention_tokens: int
    indices: PassIndices
    concept_pairs: tuple[tuple[Concept, Concept], ...]
    slot: int
    doc_ids: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of targets of each loss."""
        return {
            "relation": int((self.relation_labels != UNLABELLED).sum()),
            "type": int((self.relation_labels > 0).sum()),
            "novelty": int((self.novelty_labels != UNLABELLED).sum()),
        }

    @property
    def num_tokens(self) -> int:
        """Tokens of the strip; an empty micro-batch counts for none."""
        return len(self.input_ids) if self.slot >= 0 else 0

    @property
    def data_hash(self) -> int:
        """A 32-bit hash of tokens, pairs and labels; for a batch on the CPU."""
        labels = (self.relation_labels, self.novelty_labels)
        return data_hash(self.slot, (self.input_ids, self.cu_seqlens, self.pairs, *labels))

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on a device."""
        if self.input_ids.device == device:
            return self
        values = {name: getattr(self, name) for name in self.__slots__}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        moved = {name: _moved(value, device) for name, value in tensors.items()}
        indices = PassIndices(*(_moved(part, device) for part in self.indices))
        return replace(self, indices=indices, **moved)


def collate(passes: Sequence[Pass], tokenizer: TextTokenizer, slot: int) -> PairBatch:
    """Concatenate passes to one micro-batch, with all indices shifted accordingly."""
    token_starts = _starts([len(one.tokens) + NUM_SPECIAL for one in passes])
    concept_starts = _starts([len(one.concepts) for one in passes])
    windows, entity_codes, token_index = [], [], []
    for one, first in zip(passes, token_starts, strict=False):
        tokens = np.r_[tokenizer.special.cls, one.tokens, tokenizer.special.sep]
        codes = np.pad(one.entity_codes, ((1, 1), (0, 0)))
        for start, end in one.windows:
            index = np.r_[0, start + 1 : end + 1, len(tokens) - 1]
            windows.append(tokens[index])
            entity_codes.append(codes[index])
            token_index.append(index + first)
    lengths = [len(window) for window in windows]
    # Tokens of a pass are counted from behind its [CLS].
    shifts = np.stack([token_starts + 1, token_starts + 1, concept_starts], axis=1)
    mentions = np.concatenate([one.mentions + s for one, s in zip(passes, shifts, strict=False)])
    types = [TYPE_INDEX[concept.type] for one in passes for concept in one.concepts]
    return PairBatch(
        input_ids=_tensor(windows),
        position_ids=_tensor([np.arange(length) for length in lengths]),
        entity_codes=_tensor(entity_codes),
        cu_seqlens=torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)),
        max_seqlen=max(lengths),
        token_index=_tensor(token_index),
        mentions=_tensor([mentions]),
        concept_types=torch.tensor(types, dtype=torch.int64),
        pairs=_tensor([one.pairs + s for one, s in zip(passes, concept_starts, strict=False)]),
        locations=_tensor([one.locations for one in passes]),
        legal=_tensor([one.legal for one in passes]).bool(),
        relation_labels=_tensor([one.relation_labels for one in passes]),
        novelty_labels=_tensor([one.novelty_labels for one in passes]),
        num_pass_tokens=int(token_starts[-1]),
        num_mention_tokens=int((mentions[:, 1] - mentions[:, 0]).sum()),
        indices=_indices(passes, token_starts, concept_starts),
        concept_pairs=tuple(
            (one.concepts[first], one.concepts[second])
            for one in passes
            for first, second in one.pairs.tolist()
        ),
        slot=slot,
        doc_ids=tuple(dict.fromkeys(one.doc_id for one in passes)) if slot >= 0 else (),
    )


def _indices(
    passes: Sequence[Pass], token_starts: np.ndarray, concept_starts: np.ndarray
) -> PassIndices:
    num_pairs = [len(one.pairs) for one in passes]
    most = max(num_pairs)
    return PassIndices(
        tokens=_padded([np.arange(*ends) for ends in pairwise(token_starts)]),
        concepts=_padded([np.arange(*ends) for ends in pairwise(concept_starts)]),
        pairs=_padded([one.pairs for one in passes]),
        pair_rows=_tensor([row * most + np.arange(n) for row, n in enumerate(num_pairs)]),
        pass_of_concept=torch.from_numpy(
            np.repeat(np.arange(len(passes)), np.diff(concept_starts))
        ),
    )


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On a device. Copies to a GPU are asynchronous only from pinned memory."""
    tensor = tensor.pin_memory() if device.type == "cuda" else tensor
    return tensor.to(device, non_blocking=True)


def _starts(lengths: Sequence[int]) -> np.ndarray:
    """Cumulative lengths, from 0 to the total."""
    return np.cumsum([0, *lengths]).astype(np.int64)


def _padded(parts: Sequence[np.ndarray]) -> Tensor:
    """Parts as rows of one tensor, the shorter ones padded with -1."""
    rows = np.full((len(parts), max(map(len, parts)), *parts[0].shape[1:]), -1, dtype=np.int64)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    return torch.from_numpy(rows)


def _tensor(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
