"""FLOPs are counted by formula; the peak they are held against is measured."""

import torch

from embre.engines.flops import product_flops_per_s, training_flops_per_token


def test_it_equals_what_torch_counts_of_a_layer() -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    model = BertForMaskedLM(config)
    ids = torch.zeros(1, 16, dtype=torch.int64)
    with FlopCounterMode(display=False) as counted:
        model(input_ids=ids).logits.sum().backward()
    ours = 16 * training_flops_per_token(2, 32, 64, 100, 16, 1.0)
    assert abs(ours / counted.get_total_flops() - 1) < 0.02


def test_a_peak_is_measured() -> None:
    assert product_flops_per_s(torch.device("cpu"), torch.float32) > 1e8
