"""A backbone's WordPiece tokenizer: load, save, tokenize with character offsets, fingerprint."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from embre.refused import Refused

MIN_VOCABULARY = 32
MAX_CASED = 100  # pieces with capitals that an uncased vocabulary may have
JSON_FILES = ("config.json", "tokenizer_config.json")
# Keys that run code from the folder or fetch kernels. `…_autoset` is excluded: some versions of
# transformers wrote this flag into every folder.
CODE_KEYS = re.compile(
    "auto_map|trust_remote_code|custom_pipelines|_?(attn|experts)_implementation(?!_autoset$).*"
)
NO_CODE = (None, False, "", {}, "eager", "sdpa")  # harmless values of such keys


@dataclass(frozen=True, slots=True)
class Pieces:
    """The word pieces of several texts, end to end.

    `ids`, `starts`, `ends` (num_tokens,): token id and character span.
    `first` (num_texts + 1,): index of each text's first token, and the total.
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    first: np.ndarray


class SpecialTokens(NamedTuple):
    """Ids of [PAD], [UNK], [CLS], [SEP] and [MASK]."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


@dataclass(frozen=True, slots=True)
class TextTokenizer:
    """A WordPiece tokenizer; `vocabulary` is its number of tokens."""

    backend: Tokenizer
    vocabulary: int
    special: SpecialTokens

    def encode(self, texts: Sequence[str], begins: np.ndarray | None = None) -> Pieces:
        """Tokenize texts into word pieces, without special tokens.

        `begins` (num_texts,) is added to the character offsets of each text; default 0.
        """
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        offsets = [np.array(e.offsets, dtype=np.int64).reshape(-1, 2) for e in encodings]
        offsets = np.concatenate([np.zeros((0, 2), dtype=np.int64), *offsets])
        sizes = [len(e.ids) for e in encodings]
        if begins is not None:
            offsets += np.repeat(begins, sizes)[:, None]
        return Pieces(
            ids=np.array([i for e in encodings for i in e.ids], dtype=np.int32),
            starts=offsets[:, 0],
            ends=offsets[:, 1],
            first=np.cumsum([0, *sizes]),
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that determines the token ids of a text."""
        parts = json.loads(self.backend.to_str())
        decisive = {
            key: parts.get(key) for key in ("model", "normalizer", "pre_tokenizer", "added_tokens")
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def refuse_code(folder: str | Path) -> None:
    """Raise Refused if a JSON file of a Hugging Face folder names code to run, at any depth."""
    for path in (Path(folder) / name for name in JSON_FILES):

        def refuse(pairs: list[tuple[str, Any]], path: Path = path) -> dict[str, Any]:
            for key, value in pairs:
                if CODE_KEYS.fullmatch(key) and value not in NO_CODE:
                    raise Refused(
                        f"{path}: the key {key!r} can run code from the folder or the hub, which "
                        "a BERT does not need; remove the key"
                    )
            return dict(pairs)

        if path.is_file():
            try:
                json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=refuse)
            except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
                raise Refused(
                    f"{path}: not readable as JSON; copy the folder again ({error})"
                ) from error


def load_tokenizer(folder: str | Path) -> TextTokenizer:
    """Load the tokenizer of a Hugging Face folder, without truncation or padding.

    Raises FileNotFoundError if the folder is missing; Refused if it names code to run, has no
    usable WordPiece tokenizer (from some folders transformers 5 silently builds one of five
    tokens), or would lower-case the text of a cased vocabulary.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; give a Hugging Face folder with tokenizer.json or vocab.txt"
        )
    refuse_code(folder)
    try:
        loaded = AutoTokenizer.from_pretrained(
            str(folder), use_fast=True, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise Refused(
            f"{folder}: no readable tokenizer; give a Hugging Face folder with "
            f"tokenizer.json or vocab.txt ({type(error).__name__})"
        ) from error
    special = SpecialTokens(*(getattr(loaded, f"{n}_token_id") for n in SpecialTokens._fields))
    if len(loaded) < MIN_VOCABULARY or None in special:
        raise Refused(
            f"{folder}: its tokenizer has {len(loaded)} tokens and the special tokens "
            f"{special._asdict()}; a BERT-type tokenizer with [PAD] [UNK] [CLS] [SEP] [MASK] is "
            "needed"
        )
    backend = loaded.backend_tokenizer
    if not isinstance(backend.model, WordPiece):
        raise Refused(
            f"{folder}: a {type(backend.model).__name__} tokenizer; give a folder with a WordPiece "
            "tokenizer, as BERT has"
        )
    _refuse_lost_case(folder, backend)
    backend.no_truncation()
    backend.no_padding()
    # `[MASK]` written in a text is ordinary text, not the special token.
    backend.encode_special_tokens = True
    return TextTokenizer(backend=backend, vocabulary=len(loaded), special=special)


def _refuse_lost_case(folder: str | Path, backend: Tokenizer) -> None:
    """Refuse a cased vocabulary with a lower-casing tokenizer.

    A folder without tokenizer_config.json loads as uncased. If its vocabulary is cased, as that of
    the first BioBERT, words with capitals would silently be split into letters.
    """
    lowercases = getattr(backend.normalizer, "lowercase", False)
    cased = [t for t in backend.get_vocab() if not t.startswith("[") and t != t.lower()]
    if lowercases and len(cased) > MAX_CASED:
        raise Refused(
            f"{folder}: its vocabulary has {len(cased):,} pieces with capitals, as {cased[0]}, "
            'and its text would be lower-cased; write {"do_lower_case": false} into its '
            "tokenizer_config.json"
        )


def copy_tokenizer(source: str | Path, target: str | Path) -> None:
    """Save the tokenizer of one Hugging Face folder into another."""
    refuse_code(source)
    AutoTokenizer.from_pretrained(
        str(source), local_files_only=True, trust_remote_code=False
    ).save_pretrained(str(target))


def save_tokenizer(folder: str | Path, tokenizer: TextTokenizer) -> None:
    """Write a tokenizer as a Hugging Face folder."""
    specials = {
        f"{name}_token": tokenizer.backend.id_to_token(number)
        for name, number in tokenizer.special._asdict().items()
    }
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, **specials).save_pretrained(folder)
