"""The backbone: any Hugging Face BERT, its weights and names untouched, on packed strips.

Documents lie end to end in one strip, and attention keeps each to itself. The modules are Hugging
Face's own and only called in another way, so what is saved loads as a plain BERT.

Shapes: T tokens of a strip, R rows of it that are wanted, H hidden size.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    BertConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from embre.config import EncoderConfig, NewEncoder
from embre.model.strip_attention import strip_attention
from embre.refused import Refused
from embre.tokenization.tokenizer import TextTokenizer, refuse_code

log = logging.getLogger(__name__)

# Layer, query, key, value (T, A, E) → the last three with more entries to a head.
Extend = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class NormAsGiven(nn.LayerNorm):
    """A norm in the precision of its input; mean and variance are float32 within.

    Autocast would have every norm read and write float32, and every product cast it back: half of
    the bytes that a layer moves. As MosaicBERT's low precision LayerNorm (Portes et al., 2023,
    arXiv 2312.17482).
    """

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        with without_autocast(input.device.type):
            return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Autocast switched off, on a device that has it."""
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def load_encoder(config: EncoderConfig, tokenizer: TextTokenizer) -> PreTrainedModel:
    """A BERT with its masked-language-modelling head, ready for strips.

    Raises FileNotFoundError where `config.path` has no checkpoint, Refused where the
    checkpoint is no BERT, does not fit its tokenizer, names code to run or is a pickle.
    """
    # Its report of missing heads is said below in a line; its bars do not belong in a log.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if config.new is not None:
        return prepare_for_strips(
            AutoModelForMaskedLM.from_config(_new_config(config.new, tokenizer)), config
        )
    folder = Path(config.path)
    backbone = _read_config(folder)
    if backbone.vocab_size < tokenizer.vocabulary:
        raise Refused(
            f"{folder}: {backbone.vocab_size} embeddings for {tokenizer.vocabulary} tokens; "
            "the tokenizer belongs to another checkpoint"
        )
    model, info = AutoModelForMaskedLM.from_pretrained(
        str(folder),
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        dtype=torch.float32,
    )
    if any(name.startswith("cls.") for name in info["missing_keys"]):
        log.info(
            "%s has no masked-language-modelling head: the token head starts untrained", folder
        )
    return prepare_for_strips(model, config)


def prepare_for_strips(model: PreTrainedModel, config: EncoderConfig) -> PreTrainedModel:
    """The same BERT with the dropout, norms and checkpointing of our forward pass."""
    backbone = model.config
    backbone.hidden_dropout_prob = config.dropout
    backbone.attention_probs_dropout_prob = 0.0
    bert: Any = model.base_model
    bert.gradient_checkpointing = config.activation_checkpointing
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    for module in bert.encoder.modules():
        if isinstance(module, nn.LayerNorm):  # the same weights under the same names
            module.__class__ = NormAsGiven
    return model


def max_positions(config: EncoderConfig) -> int:
    """The longest document, in tokens, that the backbone can read."""
    if config.new is not None:
        return config.new.max_positions
    return int(_read_config(Path(config.path)).max_position_embeddings)


def check_length(config: EncoderConfig, max_document_tokens: int) -> None:
    """Raises Refused where documents may be longer than the backbone can read."""
    longest = max_positions(config)
    if max_document_tokens > longest:
        raise Refused(
            f"data.max_document_tokens: {max_document_tokens}, and the encoder reads at most "
            f"{longest} tokens; lower it"
        )


def backbone_shape(config: EncoderConfig, tokenizer: TextTokenizer) -> PreTrainedConfig:
    """The Hugging Face config of what `load_encoder` gives, without its weights."""
    if config.new is not None:
        return _new_config(config.new, tokenizer)
    return _read_config(Path(config.path))


def num_parameters(shape: PreTrainedConfig) -> int:
    """Of a BERT of this shape with its masked-language-modelling head."""
    with torch.device("meta"):
        return AutoModelForMaskedLM.from_config(shape).num_parameters()


def empty_encoder(config: dict[str, Any]) -> PreTrainedModel:
    """A BERT of the shape that a config.json describes, its weights still to come."""
    return AutoModelForMaskedLM.from_config(BertConfig.from_dict(config))


def encode_strip(
    bert: Any,
    input_ids_T: Tensor,
    positions_T: Tensor,
    boundaries: Tensor,
    longest: int,
    rows_R: Tensor | None = None,
    row_boundaries: Tensor | None = None,
    extend: Extend | None = None,
) -> Tensor:
    """The last hidden states (T, H) of a strip of documents, which `boundaries` cut from 0 to T.

    Where `rows_R`, sorted, says which of them are wanted, only those (R, H): the last layer asks
    for them alone. `row_boundaries` cut the rows by document. `extend` adds to query, key and
    value of each layer, where all rows are wanted (see `entity_attention`).
    """
    hidden_TH = _embed(bert, input_ids_T, positions_T)
    return _layers(bert, hidden_TH, boundaries, longest, rows_R, row_boundaries, extend)


def _embed(bert: Any, input_ids_T: Tensor, positions_T: Tensor) -> Tensor:
    embedded = bert.embeddings(input_ids=input_ids_T[None], position_ids=positions_T[None])[0]
    device = input_ids_T.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return embedded.to(torch.get_autocast_dtype(device))
    return embedded


def _layers(
    bert: Any,
    hidden_TH: Tensor,
    boundaries: Tensor,
    longest: int,
    rows_R: Tensor | None,
    row_boundaries: Tensor | None,
    extend: Extend | None = None,
) -> Tensor:
    run = _layer_again if bert.gradient_checkpointing and bert.training else _layer
    *layers, last = bert.encoder.layer
    number = 0
    for number, layer in enumerate(layers, start=1):
        more = extend and partial(extend, number - 1)
        hidden_TH = run(layer, hidden_TH, hidden_TH, boundaries, boundaries, longest, more)
    if rows_R is None or row_boundaries is None:
        more = extend and partial(extend, number)
        return run(last, hidden_TH, hidden_TH, boundaries, boundaries, longest, more)
    wanted_RH = hidden_TH.index_select(0, rows_R)
    return run(last, wanted_RH, hidden_TH, row_boundaries, boundaries, longest)


def _layer_again(*of_layer: Any) -> Tensor:
    """The same, of which only the input is kept for the backward pass."""
    found = checkpoint(_layer, *of_layer, use_reentrant=False)
    assert isinstance(found, Tensor)
    return found


def _layer(
    layer: Any,
    rows_RH: Tensor,
    hidden_TH: Tensor,
    row_boundaries: Tensor,
    boundaries: Tensor,
    longest: int,
    extend: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] | None = None,
) -> Tensor:
    """(R, H): a BertLayer at some rows of its input."""
    heads = layer.attention.self
    query, key, value = (
        part.unflatten(1, (heads.num_attention_heads, -1))
        for part in (heads.query(rows_RH), heads.key(hidden_TH), heads.value(hidden_TH))
    )
    size = query.shape[2]
    if extend is not None:
        query, key, value = extend(query, key, value)
    found = strip_attention(query, key, value, row_boundaries, boundaries, longest)
    found = found[..., :size].flatten(1)
    return layer.feed_forward_chunk(layer.attention.output(found, rows_RH))


def _read_config(folder: Path) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder}: no config.json; encoder.path must be a Hugging Face folder, "
            "or give the shape of a new encoder in encoder.new"
        )
    refuse_code(folder)
    backbone = AutoConfig.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    if backbone.model_type != "bert":
        raise Refused(f"{folder}: a {backbone.model_type} model; only BERT checkpoints are read")
    _refuse_pickles(folder)
    return backbone


def _refuse_pickles(folder: Path) -> None:
    """Weights of old checkpoints are pickles, of which no reader is safe for ever."""
    if not any(folder.glob("model*.safetensors")):
        raise Refused(
            f"{folder}: no model.safetensors, and weights in pickles (pytorch_model.bin) are not "
            "read; where you trust the folder, convert it: "
            'python -c "import torch; from safetensors.torch import save_file; '
            f"w = torch.load('{folder}/pytorch_model.bin', weights_only=True); "
            f"save_file({{k: v.clone() for k, v in w.items()}}, '{folder}/model.safetensors', "
            "{'format': 'pt'})\""
        )


def _new_config(shape: NewEncoder, tokenizer: TextTokenizer) -> BertConfig:
    return BertConfig(
        vocab_size=tokenizer.vocabulary,
        pad_token_id=tokenizer.pad,
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.max_positions,
    )
