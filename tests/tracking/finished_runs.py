"""Folders as a fine-tuning run leaves them, without training: for tests of the registry."""

import json
from pathlib import Path
from typing import Any

from embre.config import FinetuneConfig, check_config
from embre.corpora import CORPORA
from embre.finetune import RELATION_MODEL, SCORES
from embre.job import LINEAGE
from embre.relation_folder import save_relation_model
from embre.scoring import METRICS, counting
from embre.tracking.runs import open_run
from tests.tiny import tiny_relation_model, tiny_tokenizer

COUNTING = counting(CORPORA["biored"])


def finished_run(folder: Path, name: str, all_f1: float, **lineage: Any) -> Path:
    """A run with a tiny untrained model, registered nowhere; `lineage` replaces what it tells."""
    run = folder / "runs" / name
    run.mkdir(parents=True)
    tiny_tokenizer(folder / "backbone")
    model = run / RELATION_MODEL
    save_relation_model(model, tiny_relation_model(folder / "backbone"))
    dev = {metric: {"f1": all_f1 + 0.1 * n} for n, metric in enumerate(reversed(METRICS))}
    (run / SCORES).write_text(json.dumps({"dev": dev, "floor": dev, "not_used": {}}))
    told = {"run": name, "train": "a" * 64, "dev": "b" * 64, "counting": COUNTING, "all_f1": all_f1}
    (model / LINEAGE).write_text(json.dumps(told | lineage))
    values = {
        "name": name,
        "storage": str(folder / "runs"),
        "encoder": {"path": "backbone"},
        "data": {"train": "train.PubTator", "dev": "dev.PubTator"},
        "train": {"steps": 1},
    }
    config = check_config(FinetuneConfig, values, "test")
    open_run(config, f"sqlite:///{folder}/mlflow.db", run, {}, {})
    return run
