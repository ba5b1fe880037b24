"""The model of pretraining works only where there are targets, and gives what all of it would."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from embre.batch import Batch, StreamSource, empty_batch
from embre.encoder import load_encoder
from embre.heads import EntityHead
from embre.pretraining_model import PretrainingModel
from embre.stream import stream_batches
from tests.shard_sets import own_tokenizer, source_of, write_shards
from tests.tiny import tiny_encoder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> StreamSource:
    return source_of(write_shards(tmp_path_factory.mktemp("set"), 40))


def model_of(source: StreamSource) -> PretrainingModel:
    """Without dropout, so that two passes can be compared."""
    torch.manual_seed(2)
    tokenizer = own_tokenizer(source.shard_set)
    encoder = load_encoder(tiny_encoder(Path(source.shard_set.url) / "tokenizer"), tokenizer)
    return PretrainingModel(encoder, EntityHead(32, 16, source.entities.sizes), False)


def results(model: PretrainingModel, batch: Batch) -> dict[str, torch.Tensor]:
    """Losses and gradients of a micro-batch."""
    model.zero_grad()
    losses = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    return {n: v.detach() for n, v in losses.items()} | {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-5, msg=name)


def with_all_rows(batch: Batch) -> Batch:
    return replace(
        batch,
        rows=torch.arange(len(batch.input_ids)),
        row_boundaries=batch.boundaries,
        token_spots=batch.rows[batch.token_spots],
        mention_spans=torch.stack(
            [batch.rows[batch.mention_spans[:, 0]], batch.rows[batch.mention_spans[:, 1] - 1] + 1],
            dim=1,
        ),
    )


def test_the_last_layer_at_rows_gives_the_losses_and_gradients_of_all_of_it(
    source: StreamSource,
) -> None:
    model = model_of(source)
    for batch in islice(stream_batches(source, 0), 3):
        assert len(batch.rows) < len(batch.input_ids) / 2
        assert_same(results(model, batch), results(model, with_all_rows(batch)))


def test_an_empty_micro_batch_reaches_every_weight_and_changes_none(source: StreamSource) -> None:
    model = model_of(source)
    found = results(model, empty_batch(source))
    assert {name for name, _ in model.named_parameters()} <= found.keys()
    assert not any(value.any() for value in found.values())
