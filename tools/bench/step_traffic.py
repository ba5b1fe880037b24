"""Memory traffic of an encoder layer in a step, by operation: counted, not timed.

    python tools/bench/step_traffic.py              BERT-base, 2,048 tokens, bf16
    python tools/bench/step_traffic.py --quick      a smaller model

Operations other than matrix products are bound by memory, so bytes decide their speed. The inputs
and outputs of all operations except views are counted in a forward and backward pass of two models
that differ by one layer. The casts of weights and their gradients, which do not depend on the
number of tokens, are given separately. The last line is one JSON object, in KB per token and layer.
"""

import json
from collections import Counter
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForMaskedLM, BertConfig

from embre.cli.options import run_script
from embre.model.strip_forward import LowPrecisionLayerNorm, encode_strip

DOCUMENT = 256
PRODUCTS = ("aten.mm.default", "aten.addmm.default")


class Float32Norm(nn.LayerNorm):
    """A norm in float32, as autocast computes it on CUDA but not on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float())


class Traffic(TorchDispatchMode):
    """Counts bytes and calls by name of the operation."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        given, made = (
            [x for x in tree_leaves(part) if isinstance(x, Tensor)]
            for part in ((args, kwargs), found)
        )
        known = {x.untyped_storage().data_ptr() for x in given}
        name = str(func)
        in_place = name.split(".")[1].endswith("_")
        view = made and all(x.untyped_storage().data_ptr() in known for x in made)
        if (in_place or not view) and "empty" not in name:
            self.num_bytes[name] += sum(x.nbytes for x in (*given, *made))
            self.calls[name] += 1
        return found


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Smaller: no figures to quote.")] = False,
) -> None:
    """Count the traffic."""
    hidden, tokens = (64, 512) if quick else (768, 2048)
    console = Console(soft_wrap=True, highlight=False)
    norms = (LowPrecisionLayerNorm, Float32Norm)
    ours, plain = (of_a_layer(hidden, tokens, norm) for norm in norms)
    table = Table(title="KB a token and layer, forward and backward")
    for column in ("", "norms in float32", "ours", "calls"):
        table.add_column(column, justify="left" if not column else "right")
    for name in sorted(plain.num_bytes, key=lambda name: -plain.num_bytes[name]):
        shown = [f"{part.num_bytes[name] / tokens / 1000:.1f}" for part in (plain, ours)]
        table.add_row(name, *shown, str(ours.calls[name]))
    console.print(table)
    of_weights = weight_casts(hidden)
    result = {
        f"{name}_{what}": round(value / tokens / 1000, 1)
        for name, part in (("float32_norms", plain), ("ours", ours))
        for what, value in (
            ("products", sum(part.num_bytes[one] for one in PRODUCTS)),
            ("between", between(part, of_weights)),
        )
    }
    console.print(f"casts of a layer's weights: {of_weights / 1e6:.0f} MB a micro-batch")
    print(json.dumps(result | {"weights_mb": round(of_weights / 1e6, 1)}))


def between(part: Traffic, of_weights: int) -> int:
    """The bytes of operations other than matrix products, without the casts of weights."""
    products = sum(part.num_bytes[name] for name in PRODUCTS)
    return sum(part.num_bytes.values()) - products - of_weights


def weight_casts(hidden: int) -> int:
    """Bytes of casting a layer's matrices to bf16 and their gradients back: 2 · 6 per weight."""
    return 2 * 6 * (4 * hidden * hidden + 2 * hidden * 4 * hidden)


def of_a_layer(hidden: int, tokens: int, norm: type[nn.LayerNorm]) -> Traffic:
    """The traffic of one layer: that of three layers minus that of two."""
    three, two = (counted(layers, hidden, tokens, norm) for layers in (3, 2))
    three.num_bytes.subtract(two.num_bytes)
    three.calls.subtract(two.calls)
    three.num_bytes = +three.num_bytes  # without operations outside the layers
    return three


def counted(layers: int, hidden: int, tokens: int, norm: type[nn.LayerNorm]) -> Traffic:
    """The traffic of one forward and backward pass over a strip."""
    shape = BertConfig(
        vocab_size=1000,
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    bert: Any = AutoModelForMaskedLM.from_config(shape).base_model
    bert.gradient_checkpointing = False
    for module in bert.encoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.__class__ = norm
    input_ids = torch.arange(tokens) % shape.vocab_size
    cu_seqlens = torch.arange(0, tokens + 1, DOCUMENT, dtype=torch.int32)
    with Traffic() as traffic:
        with torch.autocast("cpu", torch.bfloat16):
            found = encode_strip(bert, input_ids, input_ids % DOCUMENT, cu_seqlens, DOCUMENT)
        found.sum(dtype=torch.float32).backward()
    return traffic


if __name__ == "__main__":
    run_script(main)
