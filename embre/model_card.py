"""The card of a model: the README.md of its folder, in the form that the Hugging Face hub reads.

Nothing of the machine goes into it: no paths, no dates. It may be edited: what identifies a model
(`provenance.folder_digest`) does not look at it.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from embre import __version__
from embre.config import EncoderConfig, FinetuneConfig, PretrainConfig
from embre.evaluation.breakdown import Groups
from embre.evaluation.scoring import TITLES, learnt_metrics
from embre.provenance import CARD, read_lineage
from embre.relation_schema import RelationSchema

LICENSE = "license: unknown  # fill in: the backbone and the documents have licences of their own\n"
TAGS = ["biology", "medical", "pubtator", "bert"]
LIMITS = """## What it is for

A lead for a curator who reads the source, and nothing more: not for diagnosis, not for treatment,
no advice to patients or physicians. It was made for English abstracts. {more}
"""
USE_RELATIONS = """## How to use it

    embre predict FOLDER YOUR.PubTator --out predicted

In Python:

```python
import torch
from embre.corpora import read_documents
from embre.relations.decode import predict
from embre.relations.model_folder import load_relation_model
from embre.tally import Tally

model = load_relation_model("FOLDER", torch.device("cpu"))
for doc in predict(model, read_documents("YOUR.PubTator", Tally())):
    for r in doc.relations:
        print(doc.doc_id, r.head, r.type, r.tail, r.novel, r.probability)
```

`transformers.AutoModel.from_pretrained("FOLDER")` reads the encoder alone. The weights are
safetensors, and no code comes with them.
"""
USE_ENCODER = """## How to use it

```python
from transformers import AutoModel, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
inputs = tokenizer("BRAF drives melanoma.", return_tensors="pt", return_token_type_ids=False)
vectors = AutoModel.from_pretrained("FOLDER")(**inputs).last_hidden_state
```

`embre finetune CONFIG encoder.path=FOLDER` makes a relation model of it, and
`embre probe FOLDER "[[BRCA1|Gene]] predisposes to breast cancer."` asks what it knows of hidden
names. The weights are safetensors, and no code comes with them.
"""


def write_relation_card(
    folder: Path,
    config: FinetuneConfig,
    schema: RelationSchema,
    scores: Mapping[str, Any],
    by_type: Groups,
    num_documents: int,
) -> None:
    """Write the card of a relation model into its folder, where its lineage lies already.

    `scores` are those of scores.json, `by_type` by relation type, both measured on `num_documents`
    documents.
    """
    lineage = read_lineage(folder)
    base = base_model(config.encoder, lineage["encoder"])
    corpora = list(
        dict.fromkeys([schema.name, *(extra.corpus.name for extra in config.data.extra_corpora)])
    )
    names = {metric: TITLES[metric] for metric in learnt_metrics(schema, config.pairs.tasks)}
    measured = f"{Path(config.data.dev).name} ({num_documents} documents)"
    front = {
        "language": ["en"],
        "library_name": "embre",
        "tags": [*TAGS, "relation-extraction", *(["novelty"] if "pair_novelty" in names else [])],
        **({"base_model": base} if base else {}),
        "datasets": corpora,
        "metrics": ["f1", "precision", "recall"],
        "model-index": _model_index(
            config.name,
            {"type": schema.name, "name": measured, "revision": lineage["dev"]},
            {f"F1 {name}": scores["dev"][metric]["f1"] for metric, name in names.items()},
        ),
    }
    start = f"`{base}`" if base else "an encoder with random weights"
    digests = {
        key: lineage[key] for key in lineage if key in ("train", "dev") or "extra_corpora." in key
    }
    parts = [
        f"# {config.name}",
        f"{_what_it_finds(schema, names)}\n"
        f"Fine-tuned by embre {__version__} from {start} in {config.train.steps} steps.",
        _results(scores, names, measured),
        *([_by_type(by_type)] if "pair_type" in names and by_type else []),
        *(
            [f"**Careful**: {scores['contamination_warning']}."]
            if "contamination_warning" in scores
            else []
        ),
        USE_RELATIONS.rstrip(),
        LIMITS.format(
            more="Mentions\nand identifiers must come with the documents, as PubTator or BioC; "
            "relations between other types are not\nfound. A probability is calibrated on "
            "documents like those it was scored on."
        ).rstrip(),
        "## What it was made of",
        "\n".join(_table(("documents", "SHA-256"), digests.items())),
        *([_encoder_lines(lineage["encoder"])] if base else []),
    ]
    _write(folder, front, parts)


def _what_it_finds(schema: RelationSchema, metrics: Collection[str]) -> str:
    novel = ", says whether the text states it as new" if "pair_novelty" in metrics else ""
    types = f"Relation types: {', '.join(schema.corpus_types)}."
    if "pair_type" not in metrics:
        types = (
            "It learnt no relation types: each relation has the first type that its pair may have."
        )
    pairs = ", ".join("-".join(pair) for pair, legal in sorted(schema.legal.items()) if legal)
    return (
        f"Finds relations between the annotated concepts of a document{novel}, and gives each a "
        f"probability. {types} Pairs: {pairs}."
    )


def _model_index(
    name: str, dataset: Mapping[str, str], f1: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The scores as the hub reads them (github.com/huggingface/hub-docs, modelcard.md)."""
    metrics = [{"type": "f1", "name": metric, "value": value} for metric, value in f1.items()]
    result = {
        "task": {"type": "relation-extraction"},
        "dataset": dict(dataset),
        "metrics": metrics,
    }
    return [{"name": name, "results": [result]}]


def write_encoder_card(
    folder: Path, config: PretrainConfig, events: Iterable[Mapping[str, Any]]
) -> None:
    """Write the card of an encoder into its folder, where its lineage lies already.

    `events` are the validations of its run; the last one is shown.
    """
    lineage = read_lineage(folder)
    base = base_model(config.encoder, read_lineage(config.encoder.path))
    front = {
        "language": ["en"],
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": [*TAGS, "entity-masking"],
        **({"base_model": base} if base else {}),
    }
    start = f"`{base}`" if base else "random weights"
    parts = [
        f"# {config.name}",
        "A BERT that learnt to name what was hidden from it: whole mentions of genes, diseases, "
        "chemicals, variants,\nspecies and cell lines were masked, and it found their type and "
        f"concept.\nPretrained by embre {__version__} from {start} in {config.train.steps} steps "
        f"(`{config.masking.objective}`).",
    ]
    last = [*events][-1:]
    shown = {
        key.removeprefix("validation/"): f"{value:.3f}"
        for key, value in (last[0].items() if last else ())
        if key.startswith(("validation/accuracy/", "validation/mrr/")) and key.count("/") == 2
    }
    if shown:
        table = "\n".join(
            _table(("validation split, hidden tokens and mentions", ""), shown.items())
        )
        parts += ["## Results", table]
    parts += [
        USE_ENCODER.rstrip(),
        LIMITS.format(
            more="What it takes for\na hidden name is what the texts made likely, which need not "
            "be true."
        ).rstrip(),
        "## What it was made of",
        f"The shard set with the digest `{lineage['shard_set']}`. Beside the plain BERT lie the "
        "head that names concepts\n(`entity_head.safetensors`), its vocabulary "
        "(`concepts.parquet`) and this lineage (`embre.json`).",
    ]
    _write(folder, front, parts)


def base_model(config: EncoderConfig, lineage: Mapping[str, Any]) -> str:
    """What a model started from: a run of ours, a name of the hub, else the name of a folder.

    '' where it started from random weights.
    """
    if config.new is not None:
        return ""
    if "run" in lineage:
        return str(lineage["run"])
    known = Path(config.path) / "config.json"
    hub = json.loads(known.read_text()).get("_name_or_path", "") if known.exists() else ""
    # Two parts and no more: elsewhere it is the folder on somebody's machine.
    return hub if hub.count("/") == 1 and hub[0] not in "./~" else Path(config.path).name


def _results(scores: Mapping[str, Any], names: Mapping[str, str], measured: str) -> str:
    lines = ["## Results", "", f"On {measured}, in the counting of the official BioRED scorer."]
    lines += [
        "Each document was decided by thresholds fitted to other documents (five folds; below ten",
        "documents nothing is fitted); those in this folder are fitted to all of them. The floor",
        "needs no learning: every legal pair has",
        "the first type that it may have, and is novel where the corpus says what is.",
        "",
    ]
    rows = [
        (
            name,
            *(f"{scores['dev'][metric][key]:.4f}" for key in ("precision", "recall", "f1")),
            f"{scores['floor'][metric]['f1']:.4f}",
        )
        for metric, name in names.items()
    ]
    return "\n".join([*lines, *_table(("metric", "precision", "recall", "F1", "floor F1"), rows)])


def _by_type(groups: Groups) -> str:
    """Of each relation type how much is found and right, the most frequent in gold first."""
    found = [(name, scores["pair_type"]) for name, scores in groups.items()]
    found.sort(key=lambda one: (-one[1].tp - one[1].fn, one[0]))
    rows = [
        (
            name,
            f"{score.tp + score.fn:,}",
            *(f"{value:.4f}" for value in (score.precision, score.recall, score.f1)),
        )
        for name, score in found
    ]
    heads = ("relation type", "in gold", "precision", "recall", "F1 pair + type")
    return "\n".join(_table(heads, rows))


def _encoder_lines(encoder: Mapping[str, Any]) -> str:
    """Where the encoder comes from, as far as it is known."""
    text = f"The encoder has the digest `{encoder['digest']}`"
    if "shard_set" not in encoder:
        return f"{text}."
    return (
        f"{text}. The run `{encoder['run']}` pretrained it in\n{encoder['steps']} steps on the "
        f"shard set with the digest `{encoder['shard_set']}`."
    )


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = [*heads]
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _write(folder: Path, front: Mapping[str, Any], parts: list[str]) -> None:
    head = LICENSE + yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)
    text = "\n\n".join(parts)
    (folder / CARD).write_text(f"---\n{head}---\n\n{text}\n", encoding="utf-8")
