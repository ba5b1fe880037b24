"""What tests build small: a WordPiece tokenizer, random models, documents."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from embre.config import EncoderConfig, NewEncoder, PairConfig
from embre.corpora import CORPORA
from embre.document import Document, Mention, Passage, Relation
from embre.entity_types import ENTITY_TYPES, normalise
from embre.model.backbone import load_encoder
from embre.relations.model import RelationModel
from embre.relations.model_folder import LoadedModel
from embre.relations.pass_builder import PassBuilder
from embre.relations.scored_pairs import Decision
from embre.tokenization.tokenizer import TextTokenizer, load_tokenizer

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = "gene braf causes melanoma and treats with aspirin in mice . , a study of the"


def tiny_tokenizer(folder: Path, texts: Iterable[str] = (), size: int = 1000) -> TextTokenizer:
    """A lower-case WordPiece tokenizer in a Hugging Face folder, loaded as any other.

    Trained on `texts` up to `size` tokens; without texts it knows a few words and all letters.
    """
    texts = list(texts)
    specials = list(SPECIAL_TOKENS.values())
    if texts:
        backend = Tokenizer(WordPiece(unk_token="[UNK]"))
        _cut_like_bert(backend)
        trainer = WordPieceTrainer(vocab_size=size, special_tokens=specials, show_progress=False)
        backend.train_from_iterator(texts, trainer)
    else:
        pieces = [*LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS.split(), *"()[]/-"]
        tokens = dict.fromkeys([*specials, *pieces])
        vocab = {token: index for index, token in enumerate(tokens)}
        backend = Tokenizer(WordPiece(vocab=vocab, unk_token="[UNK]"))
        _cut_like_bert(backend)
    PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL_TOKENS).save_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocabulary == backend.get_vocab_size() > 50
    return tokenizer


def tiny_encoder(folder: Path, **shape: int) -> EncoderConfig:
    """The config of a small random BERT with the tokenizer of a folder; no dropout."""
    sizes = {"layers": 2, "hidden": 32, "heads": 2, "feed_forward": 64, "max_positions": 128}
    return EncoderConfig(path=str(folder), new=NewEncoder(**sizes | shape), dropout=0.0)


def tiny_relation_model(
    folder: Path,
    max_document_tokens: int = 128,
    window_overlap: int = 32,
    corpus: str = "biored",
    **pairs: Any,
) -> LoadedModel:
    """An untrained relation model with a corpus's labels and the tokenizer of a folder."""
    torch.manual_seed(5)
    tokenizer, schema = load_tokenizer(folder), CORPORA[corpus]
    config = PairConfig(hidden=16, window_overlap=window_overlap, **pairs)
    builder = PassBuilder.build(tokenizer, schema, max_document_tokens, config)
    model = RelationModel(
        load_encoder(tiny_encoder(folder), tokenizer),
        config,
        len(schema.labels),
        builder.tokenizer.vocabulary,
        half_precision=False,
    )
    return LoadedModel(model.eval(), builder, Decision())


def document(
    text: str, relations: Iterable[tuple[str, str, str, bool | None]] = (), doc_id: str = "1"
) -> Document:
    """A document of one passage out of a text with marked mentions.

    `document("<BRAF|Gene|673> causes <melanoma|Disease|D1>")`; several identifiers are joined
    by commas, none is written `-`. A relation is two concepts, a type and whether it is novel:
    `("Gene:673", "Disease:D1", "Association", True)`.
    """
    plain, mentions, concepts = "", [], {}
    for part in re.split(r"(<[^<>]*>)", text):
        if part.startswith("<"):
            name, kind, identifier = part[1:-1].split("|", 2)
            _, found = normalise(ENTITY_TYPES[kind].official, identifier)
            concepts |= {str(concept): concept for concept in found}
            start, end = len(plain), len(plain) + len(name)
            official = ENTITY_TYPES[kind].official
            mentions.append(Mention(start, end, name, kind, found, official, identifier))
            part = name
        plain += part
    return Document(
        doc_id=doc_id,
        text=plain,
        passages=(Passage(0, len(plain), "abstract"),),
        mentions=tuple(mentions),
        relations=tuple(
            Relation(concepts[head], concepts[tail], kind, novel)
            for head, tail, kind, novel in relations
        ),
    )


def _cut_like_bert(backend: Tokenizer) -> None:
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
