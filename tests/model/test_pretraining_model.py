"""The pretraining model computes only what its targets need, with equal results."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from embre.model.backbone import load_encoder
from embre.model.concept_table import ConceptTable
from embre.model.heads import EntityHead
from embre.model.pretraining_model import PretrainingModel
from embre.stream.batch import Batch, empty_batch
from embre.stream.order import stream_batches
from embre.stream.source import StreamSource
from tests.shard_sets import own_tokenizer, source_of, write_shards
from tests.tiny import tiny_encoder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> StreamSource:
    return source_of(write_shards(tmp_path_factory.mktemp("set"), 40))


def model_of(source: StreamSource, **changes: object) -> PretrainingModel:
    """Without dropout, unless it is asked for."""
    torch.manual_seed(2)
    config = tiny_encoder(Path(source.shard_set.url) / "tokenizer", layers=4)
    tokenizer = own_tokenizer(source.shard_set)
    encoder = load_encoder(config.model_copy(update=changes), tokenizer)
    sizes = source.settings.entities.sizes
    table = ConceptTable(sizes, 16, sample_above=1000, sample_share=0.1)
    return PretrainingModel(encoder, EntityHead(32, len(sizes), table), False)


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
        row_cu_seqlens=batch.cu_seqlens,
        token_target_rows=batch.rows[batch.token_target_rows],
        mention_spans=torch.stack(
            [batch.rows[batch.mention_spans[:, 0]], batch.rows[batch.mention_spans[:, 1] - 1] + 1],
            dim=1,
        ),
    )


def test_the_last_layer_at_some_rows_gives_equal_losses_and_gradients(
    source: StreamSource,
) -> None:
    model = model_of(source)
    for batch in islice(stream_batches(source, 0), 3):
        assert len(batch.rows) < len(batch.input_ids) / 2
        assert_same(results(model, batch), results(model, with_all_rows(batch)))


def test_an_empty_micro_batch_reaches_every_weight_and_changes_none(source: StreamSource) -> None:
    model = model_of(source)
    found = results(model, empty_batch(source.settings))
    assert {name for name, _ in model.named_parameters()} <= found.keys()
    assert not any(value.any() for value in found.values())


def kept_bytes(model: PretrainingModel, batch: Batch) -> int:
    """Of what the forward pass keeps for the backward pass, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch)
    return sum(kept.values())


def test_checkpointing_saves_memory_and_changes_no_result(source: StreamSource) -> None:
    plain = model_of(source, dropout=0.2)
    saving = model_of(source, dropout=0.2, activation_checkpointing=True)
    batch = next(stream_batches(source, 0))
    found = []
    for model in (plain, saving):
        torch.manual_seed(7)
        found.append(results(model, batch))
    assert_same(*found)
    assert kept_bytes(saving, batch) < 0.5 * kept_bytes(plain, batch)
