"""Predict the relations of documents with a loaded relation model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch

from embre import watchdog
from embre.document import Document
from embre.relations.model_folder import LoadedModel
from embre.relations.pair_labels import NOT_NOVEL, NOVEL
from embre.relations.passes import Pass
from embre.relations.scored_pairs import ScoredPairs, decide
from embre.tally import Tally

Item = TypeVar("Item")
DOCUMENTS_AT_ONCE = 64
STRIP_TOKENS = 16384  # per forward pass of the model, padding included; a longer pass is alone


def predict(
    loaded: LoadedModel, docs: Iterable[Document], tally: Tally | None = None
) -> Iterator[Document]:
    """Yield each document with the predicted relations in place of its own.

    The model's decision says which pairs are relations, see `decide`. Pairs that cannot be scored
    are counted in `tally`. The results of a block of documents are read after the next block has
    been queued on the device, so that a GPU and its host work at the same time.
    """
    tally = tally or Tally()
    for bare, result in _delayed_by_one(_scored_blocks(loaded, docs, tally)):
        predicted = decide(result(), loaded.decision, loaded.builder.schema)
        for doc, relations in zip(bare, predicted, strict=True):
            yield replace(doc, relations=relations)


def score_pairs(loaded: LoadedModel, docs: Sequence[Document], tally: Tally) -> ScoredPairs:
    """Score all candidate pairs of the documents; gold labels are taken from their relations."""
    return start_scoring(loaded, docs, tally)()


@torch.inference_mode()
def start_scoring(
    loaded: LoadedModel, docs: Sequence[Document], tally: Tally
) -> Callable[[], ScoredPairs]:
    """Queue the scoring of documents on the model's device; `result()`, returned, waits for it."""
    model, builder = loaded.model.eval(), loaded.builder
    device = next(model.parameters()).device
    outputs, concepts, documents, relation_labels, novelty_labels = [], [], [], [], []

    def passes() -> Iterator[Pass]:
        for index, one in builder.passes_of(docs, tally):
            documents.append(np.full(len(one.pairs), index))
            relation_labels.append(one.relation_labels)
            novelty_labels.append(one.novelty_labels)
            yield one

    for strip in strips(passes()):
        batch = builder.collate(strip, slot=0)
        concepts += batch.concept_pairs
        outputs.append(model.probabilities(batch.to(device)))
        watchdog.report_progress()  # a validation in training may take long
    # Queue the copies before other work on the device, or the result would wait for that too.
    on_cpu = [torch.cat(parts).to("cpu", non_blocking=True) for parts in zip(*outputs, strict=True)]
    copied = torch.cuda.Event() if device.type == "cuda" else None
    if copied is not None:
        copied.record(torch.cuda.current_stream(device))  # not necessarily the current GPU's

    def result() -> ScoredPairs:
        if copied is not None:
            copied.synchronize()
        empty = [np.zeros(0), np.zeros((0, len(builder.schema.relation_types))), np.zeros(0)]
        columns = [part.numpy().astype(np.float64) for part in on_cpu]
        related, types, novel = columns or empty
        gold = _integers(novelty_labels)
        return ScoredPairs(
            num_documents=len(docs),
            documents=_integers(documents),
            concepts=concepts,
            related=related,
            types=types,
            novel=novel if builder.schema.novelty else np.full(len(novel), np.nan),
            relation_labels=_integers(relation_labels),
            gold_novel=np.select([gold == NOVEL, gold == NOT_NOVEL], [1.0, 0.0], np.nan),
        )

    return result


def _scored_blocks(
    loaded: LoadedModel, docs: Iterable[Document], tally: Tally
) -> Iterator[tuple[list[Document], Callable[[], ScoredPairs]]]:
    """Yield blocks of documents without their relations, each with the `result` of its scoring."""
    remaining = iter(docs)
    while block := list(islice(remaining, DOCUMENTS_AT_ONCE)):
        for doc in block:
            for relation in doc.relations:
                tally.drop("relation/replaced", doc.doc_id, relation.type)
        # Without gold relations, so that those that cannot be training targets are not counted.
        bare = [replace(doc, relations=()) for doc in block]
        yield bare, start_scoring(loaded, bare, tally)


def _delayed_by_one(items: Iterable[Item]) -> Iterator[Item]:
    """Yield each item after the next one has been produced."""
    before: list[Item] = []
    for item in items:
        yield from before
        before = [item]
    yield from before


def strips(passes: Iterable[Pass]) -> Iterator[list[Pass]]:
    """Group passes, in order, into strips of at most STRIP_TOKENS, each pass padded to the longest
    of its strip, as the relation layers do."""
    strip: list[Pass] = []
    for one in passes:
        longest = max(len(other.tokens) for other in [*strip, one])
        if strip and longest * (len(strip) + 1) > STRIP_TOKENS:
            yield strip
            strip = []
        strip.append(one)
    if strip:
        yield strip


def _integers(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])
