"""The context of pairs follows its definition, whether computed at once or in chunks."""

import pytest
import torch
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertAttention

from embre.relations import localized_context
from embre.relations.localized_context import FALLOFF_SCALE, LocalizedContext
from embre.relations.model_folder import LoadedModel
from embre.relations.pair_batch import PairBatch
from embre.tally import Tally
from tests.relations.test_model import Largest
from tests.tiny import document, tiny_relation_model, tiny_tokenizer

LONG = " and ".join(
    [f"<braf|Gene|{n % 9}> in <aspirin|Chemical|D{n % 5}>" for n in range(40)]
    + ["<melanoma|Disease|D7>", "<mice|Species|10090>"]
)
TEXTS = ["<braf|Gene|1> and <a gene|Gene|2>", LONG, "<aspirin|Chemical|D1> of <braf|Gene|1>"]
HIDDEN, HEADS = 8, 2


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    return tiny_relation_model(folder)


def batch_of(loaded: LoadedModel, texts: list[str]) -> PairBatch:
    passes = [one for text in texts for one in loaded.builder.passes(document(text), Tally())]
    return loaded.builder.collate(passes, slot=0)


def attention() -> BertAttention:
    shape = BertConfig(
        hidden_size=HIDDEN, num_attention_heads=HEADS, initializer_range=0.5, num_hidden_layers=1
    )
    found = BertAttention(shape)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return found


def random_states(batch: PairBatch) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (batch.num_pass_tokens, HIDDEN), (len(batch.concept_types), HIDDEN)
    states, concepts = (torch.randn(shape, generator=generator) for shape in shapes)
    return states.requires_grad_(), concepts.requires_grad_()


def one_by_one(
    context: LocalizedContext, states_NH: torch.Tensor, concepts_CH: torch.Tensor, batch: PairBatch
) -> torch.Tensor:
    """The same by its definition: a pair and a head at a time."""
    size, found = HIDDEN // HEADS, []
    for first, second in batch.pairs.tolist():
        tokens_n = batch.indices.tokens[batch.indices.pass_of_concept[first]]
        tokens_n = tokens_n[tokens_n >= 0]
        heads = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            key, value = (f(states_NH)[tokens_n, part] for f in (context.key, context.value))
            scores, inside = [], []
            for concept in (first, second):
                mentions = batch.mentions[batch.mentions[:, 2] == concept]
                spans = [torch.arange(start, end) for start, end, _ in mentions.tolist()]
                away = (tokens_n[:, None] - torch.cat(spans)).abs().min(1).values
                asked = key @ context.query(concepts_CH)[concept, part] / size**0.5
                falloff = FALLOFF_SCALE * context.falloff_A[head]
                scores.append(asked - falloff * away.float().log1p())
                inside.append(away == 0)
            looks = (
                (sum(scores), ~(inside[0] | inside[1])),
                (scores[1], inside[0]),
                (scores[0], inside[1]),
            )
            heads.append(
                torch.stack([look[where].softmax(0) @ value[where] for look, where in looks])  # type: ignore[index]
            )
        found.append(torch.cat(heads, dim=1))
    return context.dense(torch.stack(found))


# All at once; a few pairs of a pass; fewer scores than one pair has.
@pytest.mark.parametrize("chunk", [1 << 22, 5000, 1])
def test_chunks_follow_the_definition(
    loaded: LoadedModel, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2)
    context, batch = LocalizedContext(attention()), batch_of(loaded, TEXTS)
    states, concepts = random_states(batch)
    weighted = torch.randn(len(batch.pairs), 3, HIDDEN)
    read = [states, concepts, *context.parameters()]
    expected = one_by_one(context, states, concepts, batch)
    gradients = torch.autograd.grad((expected * weighted).sum(), read)
    monkeypatch.setattr(localized_context, "MAX_SCORES", chunk)
    found = context(states, concepts, batch)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    for one, other in zip(
        torch.autograd.grad((found * weighted).sum(), read), gradients, strict=True
    ):
        # The gradient of key.bias is 0 but for rounding, which depends on the machine.
        torch.testing.assert_close(one, other, atol=1e-4, rtol=5e-5)


def test_without_gradients_nothing_is_checkpointed(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, batch = LocalizedContext(attention()), batch_of(loaded, TEXTS)
    states, concepts = random_states(batch)
    monkeypatch.setattr(localized_context, "MAX_SCORES", 1)
    expected = context(states, concepts, batch)
    monkeypatch.setattr(localized_context, "checkpoint", None)
    with torch.no_grad():
        assert torch.equal(context(states, concepts, batch), expected)


def test_a_gpu_has_larger_chunks() -> None:
    on_gpu, on_cpu = (localized_context.max_scores(torch.device(one)) for one in ("cuda", "cpu"))
    assert on_gpu > 4.6 * on_cpu, "a full strip of BioRED"


def test_memory_does_not_grow_with_concepts_times_tokens(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, chunk = LocalizedContext(attention()), 1 << 13
    monkeypatch.setattr(localized_context, "MAX_SCORES", chunk)
    most = []
    for number in (30, 60):
        # Species are in no pair, and are concepts all the same.
        species = " ".join(f"<mice|Species|{n}>" for n in range(1, number))
        batch = batch_of(loaded, [f"{species} {LONG}"])
        states, concepts = (one.detach() for one in random_states(batch))
        for gradient in (False, True):
            with Largest() as largest:
                found = context(states.requires_grad_(gradient), concepts, batch)
                if gradient:
                    found.sum().backward()
            most.append(largest.elements)
        assert HEADS * len(batch.concept_types) * batch.num_pass_tokens > 3 * chunk
    assert max(most) <= 2 * chunk


def test_a_chunk_has_few_concepts(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(loaded, [" ".join(f"<braf|Gene|{n}>" for n in range(40))])
    monkeypatch.setattr(localized_context, "MAX_SCORES", 50 * HEADS * batch.num_pass_tokens)
    chunks = list(localized_context.chunks_of(batch.indices, 0, batch.mentions, HEADS))
    rows = torch.cat([chunk.indices.pair_rows for chunk in chunks])
    assert sorted(rows.tolist()) == list(range(len(batch.pairs)))
    sizes = [len(chunk.concepts) for chunk in chunks]
    assert len(chunks) == 16 and sum(sizes) / len(sizes) < 21, "28 in the order of pairs"


def test_weights_start_as_those_of_the_layer_and_falloffs_can_be_trained() -> None:
    own = attention()
    context = LocalizedContext(own)
    assert torch.equal(context.query.weight, own.self.query.weight)
    assert context.query.weight is not own.self.query.weight
    optimizer = torch.optim.AdamW(context.parameters(), lr=2e-4)
    before = context.falloff_A.detach().clone()
    for _ in range(100):
        optimizer.zero_grad()
        context.falloff_A.sum().backward()
        optimizer.step()
    assert (FALLOFF_SCALE * (before - context.falloff_A) > 0.5).all()
