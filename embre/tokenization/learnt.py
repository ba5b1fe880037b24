"""Learn a WordPiece vocabulary from documents, for a corpus without a backbone.

Deterministic, unlike the trainer of the tokenizers package, which breaks ties at random.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from embre.refused import Refused
from embre.tokenization.tokenizer import MIN_VOCABULARY

SPECIALS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
MAX_WORDS = 50_000
MAX_PIECE_CHARS = 6


def learn_tokenizer(texts: Iterable[str], num_tokens: int, folder: Path) -> None:
    """Choose about `num_tokens` lower-cased word pieces and save them as a Hugging Face folder.

    Raises Refused if the texts have too few pieces.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        clean = normalizer.normalize_str(text)
        words.update(word for word, _ in splitter.pre_tokenize_str(clean))
    pieces = [*SPECIALS.values(), *choose_pieces(words, num_tokens - len(SPECIALS))]
    if len(pieces) < MIN_VOCABULARY:
        raise Refused(
            f"only {len(pieces)} word pieces could be learnt: give more documents, or a "
            "backbone's tokenizer with --tokenizer"
        )
    save_pieces(folder, pieces)


def save_pieces(folder: Path, pieces: Sequence[str]) -> None:
    """Save a lower-casing BERT tokenizer of `pieces`, which include SPECIALS, in that order."""
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    tokenizer.decoder = decoders.WordPiece()  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIALS).save_pretrained(str(folder))


def choose_pieces(words: Counter[str], num_pieces: int) -> list[str]:
    """Choose all characters, then the most frequent words, then the parts that save most tokens.

    Half of the pieces beyond characters are words, half are beginnings and `##` continuations.
    """
    ranked = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:MAX_WORDS]
    characters = sorted({character for word in words for character in word})
    chosen = dict.fromkeys([*characters, *(f"##{character}" for character in characters)])
    room = max(0, num_pieces - len(chosen))
    chosen.update(dict.fromkeys(word for word, _ in ranked[: room // 2]))
    saved: Counter[str] = Counter()
    for word, count in ranked[room // 2 :]:
        for start in range(len(word)):
            for end in range(start + 2, min(start + MAX_PIECE_CHARS, len(word)) + 1):
                part = word[start:end] if start == 0 else f"##{word[start:end]}"
                saved[part] += count * (end - start - 1)
    best = sorted(saved.items(), key=lambda item: (-item[1], item[0]))
    for part, _ in best:
        if len(chosen) >= num_pieces:
            break
        chosen[part] = None
    return list(chosen)
