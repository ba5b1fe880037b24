"""One micro-batch of fine-tuning: the windows of some passes end to end in a strip.

Shapes: T tokens of the strip, W windows in it, N tokens of the passes (those that windows share
counted once), K mentions of concepts, C concepts, P pairs, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embre.data_hash import data_hash
from embre.document import Concept
from embre.entity_types import TYPE_INDEX
from embre.relations.passes import NUM_SPECIAL, UNLABELLED, Pass
from embre.tokenization.tokenizer import TextTokenizer


class Grids(NamedTuple):
    """What belongs to each of D passes, side by side, and -1 where one has less than the largest.

    `tokens` (D, n) of the N tokens, `concepts` (D, c) of the C concepts, `pairs` (D, p, 2) two
    places each in the pass's row of concepts. `rows` (P,) is where each pair lies in D · p,
    `owners` (C,) the pass of each concept.
    """

    tokens: Tensor
    concepts: Tensor
    pairs: Tensor
    rows: Tensor
    owners: Tensor


@dataclass(frozen=True, slots=True)
class PairBatch:
    """A micro-batch as tensors.

    `input_ids`, `position_ids` (T,); `roles` (T, 2) as in `Pass`; `cu_seqlens` (W + 1,) where each
    window starts and the last ends; `max_seqlen` tokens of the longest. `reads` (T,) says which of
    the N tokens of passes each token of the strip is; [CLS] and [SEP] of a pass's windows are the
    same two. `mentions` (K, 3) are start and end in N and concept, `num_marked` the
    tokens of all of them together; `concept_types` (C,); `pairs` (P, 2)
    are concepts, `locations` (P, 4) as in `Pass`; `legal` (P, L) the labels allowed.
    `relation_labels` (P,) has 0 for None, `novelty_labels` (P,) is UNRELATED, NOT_NOVEL, NOVEL or
    RELATED; both UNLABELLED where nobody knows. `num_read` is N, `grids` are the passes' shares.
    `concept_pairs` names the concepts of each pair, `slot` is the place in the step (-1: empty),
    `doc_ids` what is in it.
    """

    input_ids: Tensor
    position_ids: Tensor
    roles: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    reads: Tensor
    mentions: Tensor
    concept_types: Tensor
    pairs: Tensor
    locations: Tensor
    legal: Tensor
    relation_labels: Tensor
    novelty_labels: Tensor
    num_read: int
    num_marked: int
    grids: Grids
    concept_pairs: tuple[tuple[Concept, Concept], ...]
    slot: int
    doc_ids: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Targets of each loss."""
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
        """32 bits of tokens and labels, as they lie on the CPU."""
        labels = (self.relation_labels, self.novelty_labels)
        return data_hash(self.slot, (self.input_ids, self.cu_seqlens, self.pairs, *labels))

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on a device."""
        if self.input_ids.device == device:
            return self
        values = {name: getattr(self, name) for name in self.__slots__}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        moved = {name: _moved(value, device) for name, value in tensors.items()}
        grids = Grids(*(_moved(grid, device) for grid in self.grids))
        return replace(self, grids=grids, **moved)


def lay(passes: Sequence[Pass], tokenizer: TextTokenizer, slot: int) -> PairBatch:
    """The windows of some passes end to end, and all indices shifted to match."""
    num_tokens = [len(one.tokens) + NUM_SPECIAL for one in passes]
    num_concepts = [len(one.concepts) for one in passes]
    num_pairs = [len(one.pairs) for one in passes]
    most_pairs = max(num_pairs)
    token_starts, concept_starts = _starts(num_tokens), _starts(num_concepts)
    strips, roles, reads = [], [], []
    for one, shift in zip(passes, token_starts, strict=True):
        last = len(one.tokens) + 1
        for start, end in one.windows:
            inside = one.tokens[start:end]
            strips.append(np.r_[tokenizer.special.cls, inside, tokenizer.special.sep])
            roles.append(np.pad(one.roles[start:end], ((1, 1), (0, 0))))
            reads.append(np.r_[0, start + 1 : end + 1, last] + shift)
    lengths = [len(strip) for strip in strips]
    # 1: [CLS] comes first.
    shifts = np.stack([token_starts + 1, token_starts + 1, concept_starts], axis=1)
    mentions = np.concatenate([one.mentions + s for one, s in zip(passes, shifts, strict=True)])
    types = [TYPE_INDEX[concept.type] for one in passes for concept in one.concepts]
    return PairBatch(
        input_ids=_tensor(strips),
        position_ids=_tensor([np.arange(length) for length in lengths]),
        roles=_tensor(roles),
        cu_seqlens=torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)),
        max_seqlen=max(lengths),
        reads=_tensor(reads),
        mentions=_tensor([mentions]),
        concept_types=torch.tensor(types, dtype=torch.int64),
        pairs=_tensor([one.pairs + s for one, s in zip(passes, concept_starts, strict=True)]),
        locations=_tensor([one.locations for one in passes]),
        legal=_tensor([one.legal for one in passes]).bool(),
        relation_labels=_tensor([one.relation_labels for one in passes]),
        novelty_labels=_tensor([one.novelty_labels for one in passes]),
        num_read=sum(num_tokens),
        num_marked=int((mentions[:, 1] - mentions[:, 0]).sum()),
        grids=Grids(
            _grid([s + np.arange(n) for s, n in zip(token_starts, num_tokens, strict=True)]),
            _grid([s + np.arange(n) for s, n in zip(concept_starts, num_concepts, strict=True)]),
            _grid([one.pairs for one in passes]),
            _tensor([d * most_pairs + np.arange(n) for d, n in enumerate(num_pairs)]),
            torch.from_numpy(np.repeat(np.arange(len(passes)), num_concepts)),
        ),
        concept_pairs=tuple(
            (one.concepts[first], one.concepts[second])
            for one in passes
            for first, second in one.pairs.tolist()
        ),
        slot=slot,
        doc_ids=tuple(dict.fromkeys(one.doc_id for one in passes)) if slot >= 0 else (),
    )


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On a device. A GPU copies out of pinned memory alone while the host goes on."""
    tensor = tensor.pin_memory() if device.type == "cuda" else tensor
    return tensor.to(device, non_blocking=True)


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
