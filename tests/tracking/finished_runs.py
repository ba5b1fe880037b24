"""Folders as runs leave them, without training: for tests of the registry."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from embre.config import FinetuneConfig, PretrainConfig, RunConfig, check_config
from embre.corpora import CORPORA
from embre.evaluation.scoring import METRICS, scoring_protocol
from embre.finetune import RELATION_MODEL, SCORES
from embre.model.backbone import load_encoder
from embre.pretrain import ENCODER
from embre.provenance import LINEAGE
from embre.relations.model_folder import save_relation_model
from embre.relations.scored_pairs import OTHERS, Decision
from embre.tokenization.tokenizer import copy_tokenizer
from embre.tracking.runs import open_run
from tests.tiny import tiny_encoder, tiny_relation_model, tiny_tokenizer

PROTOCOL = scoring_protocol(CORPORA["biored"])


def finished_run(folder: Path, name: str, all_f1: float, **lineage: Any) -> Path:
    """A run with a tiny untrained model, registered nowhere; `lineage` replaces what it tells."""
    run = folder / "runs" / name
    run.mkdir(parents=True)
    tiny_tokenizer(folder / "backbone")
    model = run / RELATION_MODEL
    loaded = tiny_relation_model(folder / "backbone")
    save_relation_model(model, replace(loaded, decision=Decision(thresholds={OTHERS: 0.0})))
    dev = {metric: {"f1": all_f1 + 0.1 * n} for n, metric in enumerate(reversed(METRICS))}
    (run / SCORES).write_text(json.dumps({"dev": dev, "floor": dev, "dropped": {}}))
    told = {"run": name, "train": "a" * 64, "dev": "b" * 64, "scoring_protocol": PROTOCOL}
    told["encoder"] = {"digest": "e" * 64}
    (model / LINEAGE).write_text(json.dumps(told | lineage))
    data = {"train": "train.PubTator", "dev": "dev.PubTator"}
    _open(folder, FinetuneConfig, run, data)
    return run


def finished_pretraining(folder: Path, name: str, shard_set: str) -> Path:
    """A run with a tiny untrained encoder, told to come from shards of that digest."""
    run = folder / "runs" / name
    tokenizer = tiny_tokenizer(folder / "backbone")
    encoder = run / ENCODER
    load_encoder(tiny_encoder(folder / "backbone"), tokenizer).save_pretrained(encoder)
    copy_tokenizer(folder / "backbone", encoder)
    told = {"run": name, "shard_set": shard_set, "steps": 7}
    (encoder / LINEAGE).write_text(json.dumps(told))
    _open(folder, PretrainConfig, run, {"shards": "shards", "streams": 1})
    return run


def _open(folder: Path, kind: type[RunConfig], run: Path, data: dict[str, Any]) -> None:
    values = {
        "name": run.name,
        "storage": str(folder / "runs"),
        "encoder": {"path": "backbone"},
        "data": data,
        "train": {"steps": 1},
    }
    config = check_config(kind, values, "test")
    open_run(config, f"sqlite:///{folder}/mlflow.db", run, {}, {}, "")
