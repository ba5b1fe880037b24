"""The compiled forward pass: one graph, made once for every size, with the same losses."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from embre.config import EncoderConfig
from embre.model.backbone import load_encoder
from embre.model.compiling import compiled, heavy_parts
from embre.model.concept_table import ConceptTable
from embre.model.heads import EntityHead
from embre.model.pretraining_model import PretrainingModel
from embre.stream.batch import Batch, empty_batch, make_batch
from embre.stream.order import stream_batches
from embre.stream.source import StreamSource, StreamState
from tests.shard_sets import own_tokenizer, source_of, write_shards
from tests.tiny import tiny_encoder

pytestmark = pytest.mark.usefixtures("nothing_compiled_before")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> StreamSource:
    folder = tmp_path_factory.mktemp("set")
    return source_of(write_shards(folder, 40), strip_tokens=1000, max_document_tokens=100)


def model_of(source: StreamSource, dropout: float = 0.0) -> PretrainingModel:
    torch.manual_seed(2)
    config = tiny_encoder(Path(source.shard_set.url) / "tokenizer")
    config = config.model_copy(update={"dropout": dropout})
    encoder = load_encoder(config, own_tokenizer(source.shard_set))
    sizes = source.settings.entities.sizes
    table = ConceptTable(sizes, 16, sample_above=1000, sample_share=0.1)
    return PretrainingModel(encoder, EntityHead(32, len(sizes), table), False)


def batches_of_many_sizes(source: StreamSource) -> list[Batch]:
    """Few and many documents, few and many targets, none at all, and an empty micro-batch."""
    rates = [(0.0, 0.0), (0.15, 0.2), (0.9, 0.9), (0.01, 0.0), (0.3, 0.5), (0.6, 0.1)]
    found = [empty_batch(source.settings)]
    for token_rate, entity_rate in rates:
        masking = source.settings.masking.model_copy(
            update={"token_rate": token_rate, "entity_rate": entity_rate}
        )
        masked = source.with_masking(masking)
        found += islice(stream_batches(masked, 0), 2)
        first = source.read(source.shard_set.shards("train")[0], 0)
        found += [make_batch(masked.settings, first.part(0, n), 0, StreamState()) for n in (1, 4)]
    assert len({len(batch.rows) for batch in found}) > 12
    assert len({len(batch.cu_seqlens) for batch in found}) > 2
    return found


def walk(model: PretrainingModel, batches: list[Batch]) -> list[list[float]]:
    """The losses of each micro-batch, and the norm of its gradient."""
    found = []
    for batch in batches:
        torch.manual_seed(batch.slot)
        model.zero_grad()
        losses = model(batch)
        torch.stack(list(losses.values())).sum().backward()
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        results = [*losses.values(), torch.stack(norms).norm()]
        found.append([float(value.detach()) for value in results])
    return found


def evaluate(model: PretrainingModel, batches: list[Batch]) -> list[list[float]]:
    with torch.no_grad():
        found = [
            [float(value.sum()) for value in model.eval()(batch).values()] for batch in batches
        ]
    model.train()
    return found


def compiled_and_not(
    source: StreamSource, backend: str, checkpointing: bool = False
) -> tuple[list[list[float]], list[list[float]]]:
    """Results on micro-batches of many sizes, training and evaluating in turns; a graph made anew
    after the first one is an error."""
    batches = batches_of_many_sizes(source)
    model = model_of(source)
    model.encoder.bert.gradient_checkpointing = checkpointing  # type: ignore[union-attr]
    expected = walk(model, batches) + evaluate(model, batches)
    model.heavy = compiled(backend)
    walk(model, batches[:1]), evaluate(model, batches[:1])  # one micro-batch is enough to warm up
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = walk(model, batches) + evaluate(model, batches)
    return found, expected


def test_one_graph_serves_every_size(source: StreamSource) -> None:
    found, expected = compiled_and_not(source, "aot_eager")
    assert counters["stats"]["unique_graphs"] == 4, "two for training, two for evaluation"
    assert not counters["graph_break"]
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-5, atol=1e-5)


def flat(results: list[list[float]]) -> list[float]:
    """Training gives one number more than evaluation."""
    return [value for of_batch in results for value in of_batch]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_graph_of_inductor_serves_every_size(source: StreamSource, checkpointing: bool) -> None:
    found, expected = compiled_and_not(source, "inductor", checkpointing)
    assert counters["stats"]["unique_graphs"] == 4, "two for training, two for evaluation"
    assert not counters["graph_break"]
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_dropout_of_a_compiled_pass_depends_on_the_seed_alone(source: StreamSource) -> None:
    batches = list(islice(stream_batches(source, 0), 2))
    found = []
    for order in (batches, batches[::-1]):
        torch._dynamo.reset()
        model = model_of(source, dropout=0.3)
        model.heavy = compiled("inductor")
        walked = {id(batch): losses for batch in order for losses in walk(model, [batch])}
        found.append([walked[id(batch)] for batch in batches])
    assert found[0] == found[1]
    assert found[0] != walk(model_of(source), batches)


def test_cuda_attention_is_traced_without_graph_break(source: StreamSource) -> None:
    """On the device "meta" the kernel is what torch tells a compiler of it: shapes alone."""
    model = model_of(source).to("meta", torch.bfloat16)
    encode = compiled("aot_eager").encode
    for batch in batches_of_many_sizes(source)[:6]:
        cut = [part.to("meta") for part in (batch.cu_seqlens, batch.rows, batch.row_cu_seqlens)]
        ids, position_ids = batch.input_ids.to("meta"), batch.position_ids.to("meta")
        bert = model.encoder.bert
        found = encode(bert, ids, position_ids, cut[0], batch.max_seqlen, cut[1], cut[2])
        found.sum().backward()
        assert found.shape == (len(batch.rows), 32)
    assert counters["stats"]["unique_graphs"] == 1


def test_float32_on_cuda_is_not_compiled() -> None:
    config = EncoderConfig(path="bert", compile=True)
    with pytest.raises(ValueError, match="set encoder.precision to bf16"):
        heavy_parts(config, torch.device("cuda"))
