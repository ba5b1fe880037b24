"""The card of a model: the README.md of its folder, in the format of the Hugging Face hub.

It contains neither paths nor dates. Users may edit it: the digest that identifies a model
(`provenance.folder_digest`) ignores it.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
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
LIMITS = """## Intended use

Suggestions for curators who check them against the source. Not for diagnosis or treatment, and no
advice to patients or physicians. Made for English abstracts. {more}
"""
LIMITS_OF_RELATIONS = """Documents must
come with mentions and identifiers, as in PubTator or BioC; relations between other entity types are
not predicted. Probabilities are calibrated on documents like those of the results."""
LIMITS_OF_ENCODER = """Predicted
concepts of masked mentions reflect what is frequent in the training texts and need not be true."""
USE_RELATIONS = """## How to use

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

`transformers.AutoModel.from_pretrained("FOLDER")` loads the encoder alone. The weights are
safetensors; the folder contains no code.
"""
USE_ENCODER = """## How to use

```python
from transformers import AutoModel, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
inputs = tokenizer("BRAF drives melanoma.", return_tensors="pt", return_token_type_ids=False)
vectors = AutoModel.from_pretrained("FOLDER")(**inputs).last_hidden_state
```

`embre finetune CONFIG encoder.path=FOLDER` fine-tunes it to a relation model, and
`embre probe FOLDER "[[BRCA1|Gene]] predisposes to breast cancer."` predicts the concepts of masked
mentions. The weights are safetensors; the folder contains no code.
"""


def write_relation_card(
    folder: Path,
    config: FinetuneConfig,
    schema: RelationSchema,
    scores: Mapping[str, Any],
    by_type: Groups,
    num_documents: int,
) -> None:
    """Write the card of a relation model into its folder, which already has its lineage.

    `scores` are those of scores.json, `by_type` by relation type, both measured on `num_documents`
    documents.
    """
    lineage = read_lineage(folder)
    base = base_model(config.encoder, lineage["encoder"])
    names = {metric: TITLES[metric] for metric in learnt_metrics(schema, config.pairs.tasks)}
    measured = f"{Path(config.data.dev).name} ({num_documents} documents)"
    f1 = {f"F1 {name}": scores["dev"][metric]["f1"] for metric, name in names.items()}
    dataset = {"type": schema.name, "name": measured, "revision": lineage["dev"]}
    corpora = [schema.name, *(extra.corpus.name for extra in config.data.extra_corpora)]
    front = {
        "language": ["en"],
        "library_name": "embre",
        "tags": [*TAGS, "relation-extraction", *(["novelty"] if "pair_novelty" in names else [])],
        **({"base_model": base} if base else {}),
        "datasets": list(dict.fromkeys(corpora)),
        "metrics": ["f1", "precision", "recall"],
        "model-index": _model_index(config.name, dataset, f1),
    }
    start = f"`{base}`" if base else "an encoder with random weights"
    digests = [
        (key, digest)
        for key, digest in lineage.items()
        if key in ("train", "dev") or "extra_corpora." in key
    ]
    parts = [
        f"# {config.name}",
        f"{_what_it_finds(schema, names)}\n"
        f"Fine-tuned by embre {__version__} from {start} in {config.train.steps} steps.",
        _results(scores, names, measured),
        _by_type(by_type) if "pair_type" in names and by_type else "",
        _caution(scores),
        USE_RELATIONS.rstrip(),
        LIMITS.format(more=LIMITS_OF_RELATIONS).rstrip(),
        "## Training data",
        _table(("documents", "SHA-256"), digests),
        _encoder_lines(lineage["encoder"]) if base else "",
    ]
    _write(folder, front, parts)


def _caution(scores: Mapping[str, Any]) -> str:
    warning = scores.get("contamination_warning")
    return f"**Caution**: {warning}." if warning else ""


def _what_it_finds(schema: RelationSchema, metrics: Collection[str]) -> str:
    novel = ", says whether the text states it as new" if "pair_novelty" in metrics else ""
    types = f"Relation types: {', '.join(schema.corpus_types)}."
    if "pair_type" not in metrics:
        types = "Not trained on relation types: each relation has the first legal type of its pair."
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
    """Write the card of an encoder into its folder, which already has its lineage.

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
        "A BERT encoder pretrained by entity masking: whole mentions of genes, diseases, "
        "chemicals,\nvariants, species and cell lines were masked, and their entity type and "
        "concept were "
        f"predicted.\nPretrained by embre {__version__} from {start} in {config.train.steps} steps "
        f"(`{config.masking.objective}`).",
        _validation(events),
        USE_ENCODER.rstrip(),
        LIMITS.format(more=LIMITS_OF_ENCODER).rstrip(),
        "## Training data",
        f"The shard set with the digest `{lineage['shard_set']}`. The folder also holds the entity "
        "head\n(`entity_head.safetensors`), its vocabulary (`concepts.parquet`) and the lineage "
        "(`embre.json`).",
    ]
    _write(folder, front, parts)


def _validation(events: Iterable[Mapping[str, Any]]) -> str:
    """The accuracies and MRR of the last validation; '' if there are none."""
    last: Mapping[str, Any] = next(iter([*events][-1:]), {})
    shown = [
        (key.removeprefix("validation/"), f"{value:.3f}")
        for key, value in last.items()
        if key.startswith(("validation/accuracy/", "validation/mrr/")) and key.count("/") == 2
    ]
    if not shown:
        return ""
    table = _table(("validation split, masked tokens and mentions", ""), shown)
    return f"## Results\n\n{table}"


def base_model(config: EncoderConfig, lineage: Mapping[str, Any]) -> str:
    """Name of the model it started from: an embre run, a name on the hub, else a folder's name; ''
    for random weights.
    """
    if config.new is not None:
        return ""
    if "run" in lineage:
        return str(lineage["run"])
    known = Path(config.path) / "config.json"
    hub = json.loads(known.read_text()).get("_name_or_path", "") if known.exists() else ""
    # A hub name has two parts; anything else is a folder on somebody's machine.
    return hub if hub.count("/") == 1 and hub[0] not in "./~" else Path(config.path).name


def _results(scores: Mapping[str, Any], names: Mapping[str, str], measured: str) -> str:
    lines = ["## Results", "", f"On {measured}, scored as by the official BioRED scorer."]
    lines += [
        "Cross-fitted: thresholds for a document were fitted on the others (five folds; nothing is",
        "fitted below ten documents). The thresholds in this folder are fitted to all of them.",
        "The floor is the trivial system: every legal pair is a relation of its first legal type,",
        "and novel if the corpus annotates that.",
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
    return "\n".join([*lines, _table(("metric", "precision", "recall", "F1", "floor F1"), rows)])


def _by_type(groups: Groups) -> str:
    """The scores of each relation type, the most frequent in gold first."""
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
    return _table(heads, rows)


def _encoder_lines(encoder: Mapping[str, Any]) -> str:
    """The origin of the encoder, as far as it is known."""
    text = f"The encoder has the digest `{encoder['digest']}`"
    if "shard_set" not in encoder:
        return f"{text}."
    return (
        f"{text}. The run `{encoder['run']}` pretrained it in\n{encoder['steps']} steps on the "
        f"shard set with the digest `{encoder['shard_set']}`."
    )


def _table(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _write(folder: Path, front: Mapping[str, Any], parts: list[str]) -> None:
    head = LICENSE + yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)
    text = "\n\n".join(part for part in parts if part)
    (folder / CARD).write_text(f"---\n{head}---\n\n{text}\n", encoding="utf-8")
