"""The backbone: any Hugging Face BERT with its weights and their names unchanged, so that it is
saved as a plain BERT. The only module that uses transformers' models."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    BertConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from embre.config import EncoderConfig, NewEncoder
from embre.model.strip_forward import LowPrecisionLayerNorm
from embre.refused import Refused
from embre.tokenization.tokenizer import TextTokenizer, refuse_code

log = logging.getLogger(__name__)


def load_encoder(config: EncoderConfig, tokenizer: TextTokenizer) -> PreTrainedModel:
    """A BERT with its masked-language-modelling head, ready for strips.

    Raises FileNotFoundError if `config.path` has no checkpoint; Refused if the checkpoint is not a
    BERT, does not fit its tokenizer, names code to run or is a pickle.
    """
    # Missing heads are logged below in one line; progress bars do not belong in a log.
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
    """Set dropout, norms and checkpointing of a BERT for `encode_strip`, in place."""
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
            module.__class__ = LowPrecisionLayerNorm
    return model


def check_length(config: EncoderConfig, max_document_tokens: int) -> None:
    """Raise Refused if documents may be longer than the position embeddings of the backbone."""
    new, folder = config.new, Path(config.path)
    max_tokens = new.max_positions if new else _read_config(folder).max_position_embeddings
    if max_document_tokens > max_tokens:
        raise Refused(
            f"data.max_document_tokens: {max_document_tokens}, but the encoder reads at most "
            f"{max_tokens} tokens; lower it"
        )


def backbone_shape(config: EncoderConfig, tokenizer: TextTokenizer) -> PreTrainedConfig:
    """The Hugging Face config of the model that `load_encoder` returns, without loading weights."""
    if config.new is not None:
        return _new_config(config.new, tokenizer)
    return _read_config(Path(config.path))


def num_parameters(shape: PreTrainedConfig) -> int:
    """Number of parameters of a BERT of this shape with its masked-language-modelling head."""
    with torch.device("meta"):
        return AutoModelForMaskedLM.from_config(shape).num_parameters()


def empty_encoder(config: dict[str, Any]) -> PreTrainedModel:
    """An untrained BERT of the shape of a config.json, to load weights into."""
    return AutoModelForMaskedLM.from_config(BertConfig.from_dict(config))


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
    """Refuse pickled weights of old checkpoints: unpickling can run code."""
    if not any(folder.glob("model*.safetensors")):
        raise Refused(
            f"{folder}: no model.safetensors, and weights in pickles (pytorch_model.bin) are not "
            "read; if you trust the folder, convert it: "
            'python -c "import torch; from safetensors.torch import save_file; '
            f"w = torch.load('{folder}/pytorch_model.bin', weights_only=True); "
            f"save_file({{k: v.clone() for k, v in w.items()}}, '{folder}/model.safetensors', "
            "{'format': 'pt'})\""
        )


def _new_config(shape: NewEncoder, tokenizer: TextTokenizer) -> BertConfig:
    return BertConfig(
        vocab_size=tokenizer.vocabulary,
        pad_token_id=tokenizer.special.pad,
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.max_positions,
    )
