"""What only a GPU can show: its attention kernel, its sums beside a CPU's, its optimizer's state.

    python -m pytest -m gpu -rA

The tests of whole runs take helpers of the tests that have no GPU, and the models are as small.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertOnlyMLMHead

from embre import faults
from embre.config import PretrainConfig
from embre.model.compiling import compiled
from embre.model.pretraining_model import LOSSES, PretrainingModel
from embre.model.strip_attention import strip_attention
from embre.model.token_head import TokenLosses, token_losses
from embre.relations import localized_context
from embre.relations.decode import score_pairs
from embre.relations.model_folder import load_relation_model, save_relation_model
from embre.sharding.shard import ShardSettings
from embre.shards.shard_set import ShardSet
from embre.stream.batch import Batch, empty_batch
from embre.tally import Tally
from embre.world import World
from tests.model.test_compile import batches_of_many_sizes, flat, model_of, walk
from tests.model.test_sharded_table import LARGE, NO_SAMPLE, STEPS
from tests.model.test_sharded_table import walk as walk_table
from tests.ranks import run_ranks
from tests.relations.test_decode import DOCS
from tests.shard_sets import source_of, write_shards
from tests.test_pretrain import SHARED, config_of, losses, run, stop_and_go_on, zero
from tests.tiny import tiny_relation_model, tiny_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
CUDA = torch.device("cuda", 0)
SETTINGS = ShardSettings(  # as in BERT, the bias of the word pieces has an odd number of bytes
    block_documents=5, shard_documents=10, validation_share=0.15, vocabulary=402
)
# Rows that ask and tokens, by document: none of one, one token alone, more than a block of the
# kernel holds, and the last layer's few rows of long documents.
FEW = ((3, 5), (0, 4), (5, 12), (1, 19), (1, 1))
MANY = ((40, 300), (1, 1), (0, 130), (17, 17), (9, 512), (130, 131))


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("set"), 60, SETTINGS, seed=3)


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Products of float32 are float32's own, and no fault stays armed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)
    faults._armed.clear()


@pytest.mark.parametrize("documents", [FEW, MANY], ids=["few tokens", "many"])
@pytest.mark.parametrize("head_size", [8, 32, 64, 72])  # 72: a head that sees entities too
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_attention_and_its_gradients_are_those_of_each_document(
    documents: tuple[tuple[int, int], ...], head_size: int, dtype: torch.dtype
) -> None:
    rows, places = ([0, *accumulate(numbers)] for numbers in zip(*documents, strict=True))
    torch.manual_seed(0)
    # What bf16 can hold, so that the kernel is seen and not the rounding of what goes in.
    query, key, value, weights = (
        torch.randn(n, 2, head_size).to(dtype) for n in (rows[-1], places[-1], places[-1], rows[-1])
    )

    def on_cuda(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        cuts = (torch.tensor(cut, dtype=torch.int32, device=CUDA) for cut in (rows, places))
        return strip_attention(query, key, value, *cuts, max_seqlen=512)

    def alone(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return by_document(query, key, value, rows, places)

    asked = (query, key, value)
    found = with_gradients(on_cuda, [x.to(CUDA) for x in asked], weights.to(CUDA))
    wanted = with_gradients(alone, [x.float() for x in asked], weights.float())
    assert all(ours.dtype == dtype for ours in found)
    pairs = [(ours.cpu().float(), theirs) for ours, theirs in zip(found, wanted, strict=True)]
    distances = [float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs]
    print("relative distances of what is found and its gradients", distances)
    near, tolerance = (1e-2, 3e-2) if dtype == torch.bfloat16 else (1e-5, 1e-4)
    assert max(distances) < near
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    for number, (num_rows, _) in enumerate(documents):
        if not num_rows:
            nobody_asks = slice(places[number], places[number + 1])
            assert not found[2][nobody_asks].any() and not found[3][nobody_asks].any()


def by_document(
    query: Tensor, key: Tensor, value: Tensor, rows: list[int], places: list[int]
) -> Tensor:
    """Torch's own attention, a document at a time."""
    parts = []
    for (first, last), (start, end) in zip(pairwise(rows), pairwise(places), strict=True):
        asked = (query[first:last], key[start:end], value[start:end])
        if first < last:
            parts.append(F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in asked)))
    return torch.cat([part.transpose(0, 1) for part in parts])


def with_gradients(
    attend: Callable[..., Tensor], asked: list[Tensor], weights: Tensor
) -> list[Tensor]:
    """What is found, and the gradients of its weighted sum."""
    leaves = [x.detach().requires_grad_() for x in asked]
    found = attend(*leaves)
    return [found.detach(), *torch.autograd.grad(found, leaves, weights)]


@pytest.mark.parametrize(
    ("precision", "entities", "compiled", "near"),
    [
        ("fp32", {"dimension": 8}, False, 1e-4),
        ("fp32", SHARED, False, 1e-4),
        ("bf16", {"dimension": 8}, False, 3e-2),
        ("bf16", SHARED, True, 3e-2),
    ],
    ids=["fp32", "fp32, shared table", "bf16", "bf16, shared table, compiled"],
)
def test_a_run_walks_the_curve_of_a_cpu(
    shard_set: ShardSet, tmp_path: Path, precision: str, entities: dict, compiled: bool, near: float
) -> None:
    on_cpu = losses(run(World(), config(shard_set, entities=entities), str(tmp_path / "cpu")))
    settings = config(shard_set, precision, entities, compiled=compiled)
    found = losses(run(World(device=CUDA), settings, str(tmp_path / "cuda")))
    print("largest relative difference", largest_difference(found, on_cpu))
    for ours, theirs in zip(found, on_cpu, strict=True):
        assert ours == pytest.approx(theirs, rel=near)


@pytest.mark.parametrize("sample_above", [NO_SAMPLE, LARGE])
def test_a_shared_table_gives_what_it_gives_on_a_cpu(sample_above: int) -> None:
    found, _, rows = walk_table(World(device=CUDA), sample_above, 0, STEPS)
    wanted, _, same_rows = walk_table(World(), sample_above, 0, STEPS)
    torch.testing.assert_close(torch.tensor(rows), torch.tensor(same_rows), rtol=1e-4, atol=1e-5)
    for (*at, loss, gradient, ranks), (*same, other, others, same_ranks) in zip(
        found, wanted, strict=True
    ):
        assert at == same and ranks == same_ranks
        assert loss == pytest.approx(other, rel=1e-5)
        torch.testing.assert_close(
            torch.tensor(gradient), torch.tensor(others), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    ("precision", "entities", "near"),
    [("fp32", {"dimension": 8}, 1e-5), ("fp32", SHARED, 1e-5), ("bf16", {"dimension": 8}, 1e-3)],
    ids=["fp32", "fp32, shared table", "bf16"],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    shard_set: ShardSet, tmp_path: Path, precision: str, entities: dict, near: float
) -> None:
    """Sums of the device may come in another order each time. Where runs repeat themselves to the
    last bit all the same, a stopped one does too."""
    settings = config(shard_set, precision, entities, dropout=0.1)
    world = World(device=CUDA)
    again = [losses(run(world, settings, f"{tmp_path}/{number}")) for number in range(2)]
    whole, stopped = stop_and_go_on(world, settings, str(tmp_path))
    repeats = all(one == whole for one in again)
    print(
        f"{precision}: runs repeat themselves to the last bit: {repeats}; "
        f"a stopped one: {stopped == whole}, within {largest_difference(stopped, whole):.1e}"
    )
    assert stopped == whole or not repeats
    for ours, theirs in zip(stopped, whole, strict=True):
        assert ours == pytest.approx(theirs, rel=near)


def test_a_cpu_takes_up_what_a_gpu_has_saved(shard_set: ShardSet, tmp_path: Path) -> None:
    """And the other way round: the moments of the fused AdamW are those of the plain one."""
    settings, worlds = config(shard_set), (World(), World(device=CUDA))
    whole = losses(run(World(), settings, str(tmp_path / "whole")))
    for number, (before, after) in enumerate((worlds, worlds[::-1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        faults.arm("step:4:raise", folder, rank=0)
        with pytest.raises(RuntimeError, match="injected fault"):
            run(before, settings, str(folder))
        faults._armed.clear()
        by_step = {event["step"]: event for event in run(after, settings, str(folder))}
        found = losses([by_step[step] for step in range(1, 7)])
        for ours, theirs in zip(found, whole, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(("stage", "compiled"), [(1, False), (1, True), (3, False)])
def test_zero_walks_the_curve_of_torch_and_goes_on(
    shard_set: ShardSet, tmp_path: Path, stage: int, compiled: bool
) -> None:
    """On one rank, by NCCL, in bf16 with dropout; stopped in step 4 and taken up."""
    plain = config(shard_set, "bf16", dropout=0.1, compiled=compiled)
    expected = losses(run(World(device=CUDA), plain, str(tmp_path / "torch")))
    update = {"engine": "deepspeed", "deepspeed": zero(stage)}
    settings = plain.model_copy(update=update)
    ((whole, stopped),) = run_ranks(
        stop_and_go_on, 1, settings, str(tmp_path / "zero"), device="cuda"
    )
    print(
        f"ZeRO-{stage}: within {largest_difference(whole, expected):.1e} of torch; stopped and "
        f"taken up within {largest_difference(stopped, whole):.1e} of itself"
    )
    for ours, again, reference in zip(whole, stopped, expected, strict=True):
        assert ours == pytest.approx(reference, rel=1e-3)
        assert again == pytest.approx(ours, rel=1e-3)


@pytest.mark.parametrize(("half", "near"), [(True, 2e-2), (False, 1e-4)], ids=["bf16", "fp32"])
@pytest.mark.parametrize("attention", ["plain", "entity_aware"])
@pytest.mark.parametrize("chunk", [1 << 22, 2000], ids=["at once", "in shares"])
def test_a_relation_model_scores_pairs_as_on_a_cpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    half: bool,
    near: float,
    attention: str,
    chunk: int,
) -> None:
    """Loaded from its folder: in float32 on a CPU, in bf16 on a GPU."""
    monkeypatch.setattr(localized_context, "MAX_SCORES", chunk)
    tiny_tokenizer(tmp_path)
    made = tiny_relation_model(tmp_path, 64, 16, attention=attention)
    save_relation_model(tmp_path / "model", made)
    on_cpu, on_gpu = (
        load_relation_model(tmp_path / "model", device) for device in (torch.device("cpu"), CUDA)
    )
    assert on_gpu.model.half_precision and not on_cpu.model.half_precision
    on_gpu.model.half_precision = half
    on_cpu, on_gpu = (score_pairs(loaded, DOCS, Tally()) for loaded in (on_cpu, on_gpu))
    assert on_gpu.concepts == on_cpu.concepts and len(on_gpu.concepts) == 1 + 40 * 39 // 2
    np.testing.assert_allclose(on_gpu.related, on_cpu.related, atol=near)
    np.testing.assert_allclose(on_gpu.types, on_cpu.types, atol=near)
    np.testing.assert_allclose(on_gpu.novel, on_cpu.novel, atol=near)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_an_empty_micro_batch_reaches_every_weight_and_changes_none(
    shard_set: ShardSet, half: bool
) -> None:
    source = source_of(shard_set, strip_tokens=1000, max_document_tokens=100)
    model = model_of(source).to(CUDA)
    model.half_precision = half
    ((*losses, norm),) = walk(model, [empty_batch(source.settings).to(CUDA)])
    assert losses == [0.0, 0.0, 0.0] and norm == 0.0
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_one_compiled_graph_serves_every_size_in_bf16(shard_set: ShardSet) -> None:
    source = source_of(shard_set, strip_tokens=1000, max_document_tokens=100)
    batches = [batch.to(CUDA) for batch in batches_of_many_sizes(source)]
    model = model_of(source).to(CUDA)
    model.half_precision = True
    expected = walk(model, batches) + evaluate(model, batches)
    torch._dynamo.reset()
    counters.clear()
    model.heavy = compiled("inductor")
    walk(model, batches[:1]), evaluate(model, batches[:1])  # one micro-batch is enough to warm up
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = walk(model, batches) + evaluate(model, batches)
    assert counters["stats"]["unique_graphs"] == 4, "two for training, two for evaluation"
    assert not counters["graph_break"]
    np.testing.assert_allclose(flat(found), flat(expected), rtol=2e-2, atol=1e-2)


def test_a_compiled_token_head_takes_few_targets_and_many() -> None:
    """Inductor has a threshold at 5 M hidden values, 6,827 targets of BERT-base."""
    torch.manual_seed(0)
    head = BertOnlyMLMHead(BertConfig(vocab_size=1002, hidden_size=768)).to(CUDA)
    torch._dynamo.reset()
    heavy = compiled("inductor")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for num in (10_000, 300, 7_000, 20_000):
            states = torch.randn(num, 768, device=CUDA)
            labels = torch.randint(1002, (num,), device=CUDA)
            found = loss_and_gradient(heavy.token_losses, head, states, labels)
            wanted = loss_and_gradient(token_losses, head, states, labels)
            for ours, theirs in zip(found, wanted, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def loss_and_gradient(
    losses: TokenLosses, head: nn.Module, states: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    states = states.requires_grad_()
    loss = losses(head, states, labels)[0]
    (gradient,) = torch.autograd.grad(loss, states)
    return loss.detach(), gradient


def evaluate(model: PretrainingModel, batches: list[Batch]) -> list[list[float]]:
    """The losses alone: which of two nearly equal scores is the higher, bf16 does not say."""
    model.eval()
    with torch.no_grad():
        found = [[float(model(batch)[name]) for name in LOSSES] for batch in batches]
    model.train()
    return found


def config(
    shard_set: ShardSet,
    precision: str = "fp32",
    entities: dict | None = None,
    dropout: float = 0.0,
    compiled: bool = False,
) -> PretrainConfig:
    """The small run of the tests without a GPU; a CPU has no such dropout as a GPU."""
    small = config_of(Path(shard_set.url))
    wanted = {"precision": precision, "dropout": dropout, "compile": compiled}
    encoder = small.encoder.model_dump() | wanted
    return config_of(
        Path(shard_set.url), encoder=encoder, entities=entities or small.entities.model_dump()
    )


def largest_difference(found: list[list[float]], wanted: list[list[float]]) -> float:
    """Relative, over all losses and gradient norms of all steps."""
    return float(np.max(np.abs(np.array(found) / np.array(wanted) - 1)))
