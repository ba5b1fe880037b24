"""The backbone: any Hugging Face BERT, its weights and names untouched, on packed strips.

Documents lie end to end in one strip; a registered attention function keeps each to itself, so an
unmodified BERT runs on them without padding, and what is saved loads as a plain BERT.

Shapes: T tokens of a strip, H hidden size, A heads, E head size, D documents.
"""

import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForMaskedLM,
    BertConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.masking_utils import AttentionMaskInterface
from transformers.utils import logging as transformers_logging

from embre.config import EncoderConfig, NewEncoder
from embre.tokenization import TextTokenizer

log = logging.getLogger(__name__)

STRIP_ATTENTION = "embre_strip"


def strip_attention(
    module: nn.Module,
    query_1ATE: Tensor,
    key_1ATE: Tensor,
    value_1ATE: Tensor,
    attention_mask: None,
    boundaries: Tensor,
    longest: int,
    scaling: float | None = None,
    **unused: object,
) -> tuple[Tensor, None]:
    """Attention within each document of a strip.

    `boundaries` (D + 1,) int32, from 0 to T. On CUDA in half precision one variable-length kernel,
    elsewhere one call per document. There is no dropout on attention weights (the kernel has none).
    """
    if query_1ATE.is_cuda and query_1ATE.dtype in (torch.bfloat16, torch.float16):
        return _varlen_attention(query_1ATE, key_1ATE, value_1ATE, boundaries, longest, scaling)
    edges = boundaries.tolist()
    parts = [
        F.scaled_dot_product_attention(
            query_1ATE[:, :, start:end],
            key_1ATE[:, :, start:end],
            value_1ATE[:, :, start:end],
            scale=scaling,
        )
        for start, end in zip(edges[:-1], edges[1:], strict=True)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _varlen_attention(
    query_1ATE: Tensor,
    key_1ATE: Tensor,
    value_1ATE: Tensor,
    boundaries: Tensor,
    longest: int,
    scaling: float | None,
) -> tuple[Tensor, None]:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (x[0].transpose(0, 1) for x in (query_1ATE, key_1ATE, value_1ATE))
    found = varlen_attn(query, key, value, boundaries, boundaries, longest, longest, scale=scaling)
    assert isinstance(found, Tensor)
    return found[None], None


AttentionInterface.register(STRIP_ATTENTION, strip_attention)
AttentionMaskInterface.register(STRIP_ATTENTION, lambda *args, **kwargs: None)


def load_encoder(config: EncoderConfig, tokenizer: TextTokenizer) -> PreTrainedModel:
    """A BERT with its masked-language-modelling head, ready for strips.

    Raises FileNotFoundError where `config.path` has no checkpoint, ValueError where the
    checkpoint is no BERT or does not fit its tokenizer.
    """
    # Its report of missing heads is said below in a line; its bars do not belong in a log.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if config.new is not None:
        return _prepare(
            AutoModelForMaskedLM.from_config(_new_config(config.new, tokenizer)), config
        )
    folder = Path(config.path)
    backbone = _read_config(folder)
    if backbone.vocab_size < tokenizer.vocabulary:
        raise ValueError(
            f"{folder}: {backbone.vocab_size} embeddings for {tokenizer.vocabulary} tokens; "
            "the tokenizer belongs to another checkpoint"
        )
    model, info = AutoModelForMaskedLM.from_pretrained(
        str(folder),
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        dtype=torch.float32,
    )
    if any(name.startswith("cls.") for name in info["missing_keys"]):
        log.info(
            "%s has no masked-language-modelling head: the token head starts untrained", folder
        )
    return _prepare(model, config)


def max_positions(config: EncoderConfig) -> int:
    """The longest document, in tokens, that the backbone can read."""
    if config.new is not None:
        return config.new.max_positions
    return int(_read_config(Path(config.path)).max_position_embeddings)


def check_length(config: EncoderConfig, max_document_tokens: int) -> None:
    """Raises ValueError where documents may be longer than the backbone can read."""
    longest = max_positions(config)
    if max_document_tokens > longest:
        raise ValueError(
            f"data.max_document_tokens: {max_document_tokens}, and the encoder reads at most "
            f"{longest} tokens; lower it"
        )


def empty_encoder(config: dict[str, Any]) -> PreTrainedModel:
    """A BERT of the shape that a config.json describes, its weights still to come."""
    model = AutoModelForMaskedLM.from_config(BertConfig.from_dict(config))
    model.set_attn_implementation(STRIP_ATTENTION)
    return model


def encode_strip(
    bert: nn.Module, input_ids_T: Tensor, positions_T: Tensor, boundaries: Tensor, longest: int
) -> Tensor:
    """The last hidden states (T, H) of a strip of documents, which `boundaries` cut from 0 to T."""
    output = bert(
        input_ids=input_ids_T[None],
        position_ids=positions_T[None],
        boundaries=boundaries,
        longest=longest,
    )
    return output.last_hidden_state[0]


def _read_config(folder: Path) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder}: no config.json; encoder.path must be a Hugging Face folder, "
            "or give the shape of a new encoder in encoder.new"
        )
    backbone = AutoConfig.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    if backbone.model_type != "bert":
        raise ValueError(f"{folder}: a {backbone.model_type} model; only BERT checkpoints are read")
    return backbone


def _prepare(model: PreTrainedModel, config: EncoderConfig) -> PreTrainedModel:
    backbone = model.config
    backbone.hidden_dropout_prob = config.dropout
    backbone.attention_probs_dropout_prob = 0.0
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    model.set_attn_implementation(STRIP_ATTENTION)
    return model


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
