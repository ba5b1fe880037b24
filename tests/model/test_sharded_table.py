"""A concept table sharded over ranks equals the table of one rank."""

from collections.abc import Sequence

import pytest
import torch

from embre.config import OptimizerConfig
from embre.model import chunked_softmax
from embre.model.concept_table import ConceptTable
from embre.model.sharded_table import GatheredMentions, ShardedTable
from embre.model.table_rows import TableRows
from embre.world import World
from tests.ranks import run_ranks

# The third type: of four ranks, the last two hold no row of it.
SIZES, DIMENSION, SLOTS, STEPS = (9, 0, 2, 40), 6, 4, 3
NO_SAMPLE, LARGE = 1000, 8  # above LARGE: the first and the last type
OPTIMIZER = OptimizerConfig(weight_decay=0.1)

State = dict[str, list]


def mentions(
    step: int, slot: int, device: str | torch.device = "cpu"
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Of a micro-batch: vectors, ids and counts; the third has none at all."""
    random = torch.Generator().manual_seed(10 * step + slot)
    counts = [slot + 1, 0, slot % 2, 2] if slot != 2 else [0, 0, 0, 0]
    vectors = torch.randn(sum(counts), DIMENSION, generator=random).to(device).requires_grad_()
    ids = [
        torch.randint(max(size, 1), (n,), generator=random)
        for size, n in zip(SIZES, counts, strict=True)
    ]
    return vectors, torch.cat(ids).to(device), counts


def rows_of(world: World) -> TableRows:
    return TableRows(SIZES, DIMENSION, world, OPTIMIZER, seed=1)


def walk(
    world: World, sample_above: int, first: int, last: int, state: State | None = None
) -> tuple[list[tuple], State, list]:
    """Steps from a state on: by micro-batch loss, gradient and ranks; the state; all rows."""
    rows = rows_of(world)
    table = ShardedTable(rows, sample_above, sample_share=0.5)
    if state is not None:
        rows.load_state({name: torch.tensor(values) for name, values in state.items()})
    found = []
    for step in range(first, last):
        for slot in range(SLOTS)[world.rank :: world.size]:
            vectors, ids, counts = mentions(step, slot, world.device)
            torch.manual_seed(100 * step + slot)
            loss, _ = table(vectors, ids, counts)
            (loss / 7).backward()
            assert vectors.grad is not None
            with torch.no_grad():
                _, ranks = table(vectors, ids, counts)
            assert ranks is not None
            found.append((step, slot, loss.item(), vectors.grad.tolist(), ranks.tolist()))
        rows.update(lr=1e-2, scale=1.0)
    return found, {k: v.tolist() for k, v in rows.state().items()}, rows.whole().tolist()


def together(size: int, *args: object) -> tuple[list[tuple], State, torch.Tensor]:
    """The same on several ranks: all micro-batches in order, the whole state, all rows."""
    by_rank = run_ranks(walk, size, *args)
    state: State = {}
    for _, share, _ in by_rank:
        assert not state.keys() & share.keys()
        state |= share
    found = sorted(one for micro_batches, _, _ in by_rank for one in micro_batches)
    return found, state, torch.tensor(by_rank[0][2])


def assert_alike(found: Sequence[tuple], wanted: Sequence[tuple]) -> None:
    for (*at, loss, gradient, ranks), (*same, other, others, same_ranks) in zip(
        found, wanted, strict=True
    ):
        assert at == same and ranks == same_ranks
        assert loss == pytest.approx(other, rel=1e-6)
        torch.testing.assert_close(torch.tensor(gradient), torch.tensor(others))


@pytest.mark.parametrize("sample_above", [NO_SAMPLE, LARGE])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.slow
def test_two_and_four_ranks_equal_one(size: int, sample_above: int) -> None:
    wanted, _, full_block = walk(World(), sample_above, 0, STEPS)
    found, _, same_rows = together(size, sample_above, 0, STEPS)
    assert_alike(found, wanted)
    torch.testing.assert_close(same_rows, torch.tensor(full_block), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 4), (4, 2)])
@pytest.mark.slow
def test_a_state_loads_on_any_number_of_ranks(before: int, after: int) -> None:
    wanted, end, full_block = together(1, LARGE, 0, STEPS)
    first, state, _ = together(before, LARGE, 0, 1)
    second, last, same_rows = together(after, LARGE, 1, STEPS, state)
    assert_alike(first + second, wanted)
    assert last["table_updates"] == end["table_updates"] == STEPS
    torch.testing.assert_close(same_rows, full_block, rtol=1e-5, atol=1e-6)


def test_a_restored_table_continues_bit_for_bit() -> None:
    whole = walk(World(), LARGE, 0, STEPS)
    first, state, _ = walk(World(), LARGE, 0, 1)
    second, end, rows = walk(World(), LARGE, 1, STEPS, state)
    assert (first + second, end, rows) == whole


def test_the_sharded_table_equals_the_single_matrix() -> None:
    rows = rows_of(World())
    plain = ConceptTable(SIZES, DIMENSION, NO_SAMPLE, 0.5)
    plain.weight.data.copy_(rows.weight)
    vectors, ids, counts = mentions(0, 3)
    found, _ = ShardedTable(rows, NO_SAMPLE, 0.5)(vectors, ids, counts)
    wanted, _ = plain(vectors, ids, counts)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(*(torch.autograd.grad(loss, vectors)[0] for loss in (found, wanted)))
    (by_rows,) = torch.autograd.grad(plain(vectors, ids, counts)[0], plain.weight)
    torch.testing.assert_close(rows.gradient, by_rows)


@pytest.mark.parametrize("sharded", [False, True])
def test_validation_loss_equals_training_loss_and_logits_are_computed_twice(
    monkeypatch: pytest.MonkeyPatch, sharded: bool
) -> None:
    table = ConceptTable(SIZES, DIMENSION, NO_SAMPLE, 0.5).double()
    if sharded:
        table = ShardedTable(rows_of(World()), NO_SAMPLE, 0.5)
    vectors, ids, counts = mentions(0, 3)
    vectors = vectors.to(torch.float32 if sharded else torch.float64)
    wanted, _ = table(vectors, ids, counts)
    made, chunks = [], chunked_softmax._chunks
    monkeypatch.setattr(chunked_softmax, "_chunks", lambda *a: made.append(a) or chunks(*a))
    with torch.no_grad():
        found, ranks = table(vectors, ids, counts)
    torch.testing.assert_close(found, wanted, rtol=1e-6 if sharded else 1e-10, atol=0)
    assert ranks is not None and len(ranks) == sum(counts)
    assert len(made) == 2 * sum(count > 0 for count in counts)


@pytest.mark.parametrize("sample_above", [NO_SAMPLE, LARGE])
def test_one_rank_does_not_synchronize_with_its_device(sample_above: int) -> None:
    """The device `meta` has no values, so whatever asks it for one is an error."""
    device = torch.device("meta")
    table = ShardedTable(rows_of(World(device=device)), sample_above, 0.5)
    vectors, ids, counts = mentions(0, 3, device)
    table(vectors, ids, counts)[0].backward()
    assert vectors.grad is not None
    with torch.no_grad():
        _, ranks = table(vectors, ids, counts)
    assert ranks is not None and len(ranks) == sum(counts)


def test_an_update_is_adam_with_one_second_moment_for_a_row() -> None:
    rows = rows_of(World())
    before = rows.weight.clone()
    gradients = torch.randn(2, *before.shape, generator=torch.Generator().manual_seed(4))
    squares, wanted = torch.zeros(len(before)), before.clone()
    for number, gradient in enumerate(gradients, start=1):
        rows.gradient += 2 * gradient
        rows.update(lr=0.01, scale=0.5)
        squares = OPTIMIZER.beta2 * squares + (1 - OPTIMIZER.beta2) * (gradient**2).mean(1)
        length = (squares / (1 - OPTIMIZER.beta2**number)).sqrt() + OPTIMIZER.epsilon
        wanted = wanted * (1 - 0.01 * 0.1) - 0.01 * gradient / length[:, None]
        assert not rows.gradient.any()
    torch.testing.assert_close(rows.weight, wanted)


def test_rows_are_distributed_round_robin() -> None:
    """Half of a sample are the frequent concepts, the first ones: no rank may have them all."""
    by_rank = [rows_of(World(rank, 3)).parts for rank in range(3)]
    for number, size in enumerate(SIZES):
        parts = [parts[number] for parts in by_rank]
        assert sorted(row for part in parts for row in part) == list(range(size))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert sum(row < size // 2 for row in parts[0]) <= -(-size // 2 // 3) + 1


def test_a_rank_may_hold_no_row_of_a_type() -> None:
    """On many ranks small types have fewer concepts than there are ranks."""
    gathered = GatheredMentions(
        vectors=torch.zeros(1, DIMENSION),
        ids=torch.tensor([1]),
        owners=torch.tensor([0]),
        mine=torch.zeros(0, dtype=torch.int64),
        counts=[[0, 0, 1, 0], *[[0, 0, 0, 0]] * 3],
        seeds=[0] * 4,
    )
    numbers, columns = [], []
    for rank in range(4):
        table = ShardedTable(rows_of(World(rank, 4)), NO_SAMPLE, 0.5)
        (block,) = table.blocks(gathered, sampled=False)
        numbers.append(block.num_rows)
        columns += block.columns.tolist()
    assert numbers == [1, 1, 0, 0] and columns == [-1, 0, -1, -1]


def test_a_state_that_lacks_rows_is_refused() -> None:
    _, state, _ = walk(World(), LARGE, 0, 1)
    del state["table_rows/3/0/1"]
    with pytest.raises(KeyError, match="lacks 40 rows"):
        walk(World(), LARGE, 1, 2, state)
