"""What is in a micro-batch, from its first place to its padding."""

from itertools import chain, islice
from multiprocessing.reduction import ForkingPickler

import numpy as np
import torch

from embre.stream.batch import empty_batch
from embre.stream.layout import with_padding
from embre.stream.order import stream_batches
from embre.stream.source import StreamSource


def test_strips_have_one_length_and_documents_start_at_position_zero(
    source: StreamSource,
) -> None:
    special = source.settings.special
    for batch in islice(stream_batches(source, 0), 12):
        assert len(batch.input_ids) == len(batch.position_ids) == source.data.strip_tokens
        bounds = batch.cu_seqlens[: len(batch.doc_ids) + 1].tolist()
        lengths = np.diff(bounds)
        assert bounds[0] == 0
        assert bounds[-1] == batch.num_tokens <= source.data.strip_tokens
        assert batch.position_ids[: bounds[-1]].tolist() == [
            n for size in lengths for n in range(size)
        ]
        assert (batch.input_ids[bounds[-1] :] == special.pad).all()
        assert (batch.input_ids[bounds[:-1]] == special.cls).all()
        assert (batch.input_ids[[end - 1 for end in bounds[1:]]] == special.sep).all()
        assert (batch.rows[batch.mention_spans[:, 1] - 1] < bounds[-1]).all()


def test_padding_is_cut_into_pieces_that_attention_can_afford(source: StreamSource) -> None:
    for batch in islice(stream_batches(source, 0), 12):
        lengths = np.diff(batch.cu_seqlens.tolist())
        assert batch.cu_seqlens[-1] == source.data.strip_tokens
        assert lengths.min() > 0
        assert lengths.max() <= batch.max_seqlen == source.data.max_document_tokens
    full = np.array([0, 60, source.data.strip_tokens])
    assert with_padding(full, source.settings).tolist() == full.tolist()


def test_rows_are_the_places_that_a_head_reads(source: StreamSource) -> None:
    for batch in islice(stream_batches(source, 0), 12):
        spans = [range(a, b) for a, b in batch.mention_spans.tolist()]
        read = {0, len(batch.rows) - 1} | set(batch.token_target_rows.tolist()) | set(chain(*spans))
        assert read == set(range(len(batch.rows)))
        of_rows = np.searchsorted(batch.cu_seqlens.numpy(), batch.rows.numpy(), side="right") - 1
        assert np.bincount(of_rows, minlength=len(batch.cu_seqlens) - 1).tolist() == (
            np.diff(batch.row_cu_seqlens.tolist()).tolist()
        )
        for places in (batch.rows[a:b] for a, b in batch.mention_spans.tolist()):
            assert places.diff().eq(1).all(), "a mention lies whole in the rows"


def test_a_micro_batch_travels_between_processes_as_arrays(source: StreamSource) -> None:
    batch = next(stream_batches(source, 0))
    data = bytes(ForkingPickler.dumps(batch))
    assert b"storage" not in data, "a tensor would go as a file descriptor"
    again = ForkingPickler.loads(data)
    for name in batch.__slots__:
        value, other = getattr(batch, name), getattr(again, name)
        if isinstance(value, torch.Tensor):
            assert other.dtype == value.dtype and torch.equal(other, value), name
        else:
            assert other == value, name


def test_an_empty_micro_batch_has_no_targets(source: StreamSource) -> None:
    batch = empty_batch(source.settings)
    assert batch.counts == {"token": 0, "type": 0, "identifier": 0}
    assert batch.num_tokens == 0 and batch.slot == -1 and batch.doc_ids == ()
    # One document of nothing, so that attention has something to attend to on every rank.
    assert batch.cu_seqlens.tolist() == [0, 2, 50, 98, 128]
    special = source.settings.special
    padding = [special.pad] * (source.data.strip_tokens - 2)
    assert batch.input_ids.tolist() == [special.cls, special.sep, *padding]
    assert batch.mention_spans.shape == (0, 2)
