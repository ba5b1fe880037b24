"""Documents in, the same documents with predicted relations out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch

from embre import watchdog
from embre.document import Document
from embre.relations.model_folder import LoadedModel
from embre.relations.passes import NOT_NOVEL, NOVEL, Pass
from embre.relations.scored_pairs import ScoredPairs, decide
from embre.tally import Tally

Item = TypeVar("Item")
DOCUMENTS_AT_ONCE = 64
STRIP_TOKENS = 16384  # of the passes in one forward pass; a longer one goes by itself


def predict(
    loaded: LoadedModel, docs: Iterable[Document], tally: Tally | None = None
) -> Iterator[Document]:
    """Each document with the relations that the model finds, in place of those it had.

    What counts as a relation is the model's decision, see `decide`. Pairs that cannot be read are
    counted in `tally`. A block of documents is decided when the next one has been given to the
    device, so that a GPU and its host work at the same time.
    """
    tally = tally or Tally()
    for bare, scored in _one_late(_asked(loaded, docs, tally)):
        found = decide(scored(), loaded.decision, loaded.builder.schema)
        for doc, relations in zip(bare, found, strict=True):
            yield replace(doc, relations=relations)


def score_pairs(loaded: LoadedModel, docs: Sequence[Document], tally: Tally) -> ScoredPairs:
    """The probabilities of all candidate pairs of some documents, beside the labels that their
    own relations give them."""
    return ask(loaded, docs, tally)()


@torch.inference_mode()
def ask(loaded: LoadedModel, docs: Sequence[Document], tally: Tally) -> Callable[[], ScoredPairs]:
    """Give some documents to the model's device; the answer waits for what `score_pairs` says."""
    model, builder = loaded.model.eval(), loaded.builder
    device = next(model.parameters()).device
    said, concepts, passes = [], [], []

    def read() -> Iterator[Pass]:
        for place, one in builder.passes_of(docs, tally):
            passes.append((place, len(one.pairs), one.relation_labels, one.novelty_labels))
            yield one

    for some in strips(read()):
        batch = builder.lay(some, slot=0)
        concepts += batch.concept_pairs
        said.append(model.probabilities(batch.to(device)))
        watchdog.report_progress()  # in training it is a validation
    # Under way before the device is given anything else, or the answer would wait for that too.
    on_cpu = [torch.cat(parts).to("cpu", non_blocking=True) for parts in zip(*said, strict=True)]
    there = torch.cuda.Event() if device.type == "cuda" else None
    if there is not None:
        there.record(torch.cuda.current_stream(device))  # which need not be that of the current GPU

    def answer() -> ScoredPairs:
        if there is not None:
            there.synchronize()
        nothing = [np.zeros(0), np.zeros((0, len(builder.schema.relation_types))), np.zeros(0)]
        known = [part.numpy().astype(np.float64) for part in on_cpu]
        related, types, novel = known or nothing
        novelty_labels = _column([labels for *_, labels in passes], np.int64)
        return ScoredPairs(
            num_documents=len(docs),
            documents=_column([np.full(pairs, place) for place, pairs, *_ in passes], np.int64),
            concepts=concepts,
            related=related,
            types=types,
            novel=novel if builder.schema.novelty else np.full(len(novel), np.nan),
            relation_labels=_column([labels for *_, labels, _ in passes], np.int64),
            gold_novel=np.select(
                [novelty_labels == NOVEL, novelty_labels == NOT_NOVEL], [1.0, 0.0], np.nan
            ),
        )

    return answer


def _asked(
    loaded: LoadedModel, docs: Iterable[Document], tally: Tally
) -> Iterator[tuple[list[Document], Callable[[], ScoredPairs]]]:
    """Blocks of documents without relations, and what the model will have said of each."""
    remaining = iter(docs)
    while some := list(islice(remaining, DOCUMENTS_AT_ONCE)):
        for doc in some:
            for relation in doc.relations:
                tally.drop("relation/replaced", doc.doc_id, relation.type)
        # A gold relation is no loss here, so what cannot be learnt from it is not counted.
        bare = [replace(doc, relations=()) for doc in some]
        yield bare, ask(loaded, bare, tally)


def _one_late(items: Iterable[Item]) -> Iterator[Item]:
    """Each item when the next one is there."""
    before: list[Item] = []
    for item in items:
        yield from before
        before = [item]
    yield from before


def strips(passes: Iterable[Pass]) -> Iterator[list[Pass]]:
    """Passes in order, as many as fill a strip, each counted for as long as the longest: the model
    lays them side by side."""
    some: list[Pass] = []
    for one in passes:
        longest = max(len(other.tokens) for other in [*some, one])
        if some and longest * (len(some) + 1) > STRIP_TOKENS:
            yield some
            some = []
        some.append(one)
    if some:
        yield some


def _column(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=kind), *parts]).astype(kind)
