"""A relation model in a Hugging Face folder: config.json, model.safetensors and its tokenizer.

The encoder's weights are named as in a plain BERT, so `AutoModel` can load it; our own settings are
in config.json under one key.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from embre.config import PairConfig
from embre.model.backbone import empty_encoder
from embre.refused import Refused
from embre.relation_schema import schema_as_json, schema_of_json
from embre.relations.model import RelationModel
from embre.relations.pass_builder import PassBuilder
from embre.relations.scored_pairs import Decision
from embre.tokenization.tokenizer import load_tokenizer, refuse_code, save_tokenizer

SETTINGS_KEY = "embre"
FORMAT = 9


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A relation model with what is needed to apply it to documents."""

    model: RelationModel
    builder: PassBuilder
    decision: Decision


def save_relation_model(
    folder: Path,
    loaded: LoadedModel,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write a relation model, with `weights` if given (those gathered by `Engine.weights`)."""
    model, builder = loaded.model, loaded.builder
    folder.mkdir(parents=True, exist_ok=True)
    weights = model.state_dict() if weights is None else weights
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    values = model.bert.config.to_diff_dict()
    values["architectures"] = ["BertModel"]
    values[SETTINGS_KEY] = {
        "format": FORMAT,
        "kind": "relation_model",
        "schema": schema_as_json(builder.schema),
        "max_document_tokens": builder.max_document_tokens,
        "pairs": builder.config.model_dump(mode="json"),
        "decision": asdict(loaded.decision),
    }
    text = json.dumps(values, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    save_tokenizer(folder, builder.tokenizer)


def load_relation_model(folder: str | Path, device: torch.device) -> LoadedModel:
    """Load a model written by `save_relation_model`, in eval mode; runs no code from the folder.

    Raises as `read_settings`.
    """
    folder = Path(folder)
    values, settings = read_settings(folder)
    schema, config = schema_of_json(settings["schema"]), PairConfig(**settings["pairs"])
    builder = PassBuilder.build(
        load_tokenizer(folder), schema, settings["max_document_tokens"], config
    )
    model = RelationModel(
        empty_encoder(values),
        config,
        len(schema.labels),
        builder.tokenizer.vocabulary,
        half_precision=in_half_precision(device),
    )
    _load_weights(folder, model)
    decision = msgspec.convert(settings["decision"], Decision)
    return LoadedModel(model.to(device).eval(), builder, decision)


def read_settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The encoder's config, and the settings of the relation model.

    Raises FileNotFoundError if a file is missing, Refused if the folder refers to code to run, is
    not a relation model, or is in another format.
    """
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder}: no {name}; give the folder of a fine-tuned relation model, or of its "
                "run"
            )
    refuse_code(folder)
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings = _check_settings(folder, values.pop(SETTINGS_KEY, None))
    return values, settings


def in_half_precision(device: torch.device) -> bool:
    """Whether to predict in bf16 on a device, independent of training.

    On a GPU, attention over all documents of a strip at once needs bf16; a CPU without bf16
    instructions is several times slower with it.
    """
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _check_settings(folder: Path, settings: Any) -> dict[str, Any]:
    if not isinstance(settings, dict) or settings.get("kind") != "relation_model":
        raise Refused(
            f"{folder}: config.json has no {SETTINGS_KEY!r} settings of a relation model; an "
            "encoder alone predicts nothing: fine-tune it first (embre finetune)"
        )
    if settings["format"] != FORMAT:
        raise Refused(
            f"{folder}: written in format {settings['format']}, this version reads {FORMAT}"
        )
    return settings


def _load_weights(folder: Path, model: nn.Module) -> None:
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise Refused(f"{folder}: model.safetensors does not fit config.json: {error}") from error
