"""Entity-aware attention adds its biases in every layer and head."""

import pytest
import torch

from embre.model.strip_attention import strip_attention
from embre.relations.entity_attention import BIAS_SCALE, NUM_SLOTS, NUM_TYPES, EntityAttention


def test_extended_heads_give_the_biased_scores() -> None:
    torch.manual_seed(3)
    layers, heads, size, num_tokens = 2, 3, 4, 11
    biases = EntityAttention(layers, heads).double()
    for parameter in biases.parameters():
        torch.nn.init.normal_(parameter, std=1 / BIAS_SCALE)
    query, key, value = torch.randn(3, num_tokens, heads, size, dtype=torch.float64)
    kinds = torch.randint(NUM_TYPES, (num_tokens,))
    slots = torch.randint(3, (num_tokens,))
    slots[0] = NUM_SLOTS
    cuts = torch.tensor([0, 6, num_tokens], dtype=torch.int32)
    same = ((slots[:, None] == slots) & (slots > 0)).double()
    for layer in range(layers):
        longer = biases.extension(torch.stack([kinds, slots], dim=1))(layer, query, key, value)
        found = strip_attention(*longer, cuts, cuts, 6)[..., :size]
        for start, end in ((0, 6), (6, num_tokens)):
            here = slice(start, end)
            scores = torch.einsum("qae,kae->aqk", query[here], key[here]) / size**0.5
            scores += BIAS_SCALE * biases.types[layer][:, kinds[here]][:, :, kinds[here]]
            scores += BIAS_SCALE * biases.same[layer][:, None, None] * same[here, here]
            expected = torch.einsum("aqk,kae->qae", scores.softmax(2), value[here])
            torch.testing.assert_close(found[here], expected)


@pytest.mark.parametrize("size", [32, 64])
def test_extended_heads_have_a_size_that_kernels_support(size: int) -> None:
    parts = torch.zeros(3, 5, 2, size)
    longer = EntityAttention(1, 2).extension(torch.zeros(5, 2, dtype=torch.int64))(0, *parts)
    assert {part.shape[2] % 8 for part in longer} == {0}
    assert longer[0].shape[2] < size + 64
