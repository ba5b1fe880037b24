"""Repair mentions whose offsets do not match the text, or drop them.

A rule may move a mention only to a place where the text equals the mention's. Repairs are counted
as `repaired/RULE`, apart from losses.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, groupby

from embre.corpora.raw import RawMention
from embre.corpora.spelling import same_words, spelled_out
from embre.document import Passage
from embre.entity_types import entity_type_of
from embre.tally import REPAIRED, Tally

# Maximum shift in characters. A match further away is another mention of the same name.
MAX_SHIFT = 16
JOINS = (1, -1, 2, -2)
# Shorter text may match by chance at another place.
MIN_EVIDENCE_CHARS = 8
MIN_CHARS = 3
# Characters that spell out one: `spelled_out("ᾷ")` is "alpha", a circumflex and "iota".
MAX_SPELLED = 10
MAX_SHOWN = 80  # characters of a mention shown with a loss

# The mentions that a rule moved, by index in its input list.
Moved = dict[int, RawMention]


def repair(
    wrong: list[RawMention],
    right: list[RawMention],
    text: str,
    passages: Sequence[Passage],
    file: str,
    tally: Tally,
) -> list[RawMention]:
    """Return those `wrong` mentions that a rule could place where the text matches; count all."""
    kept: list[RawMention] = []
    left: list[RawMention] = []
    for mention in wrong:
        fits = 0 <= mention.start < mention.end <= len(text)
        # Spans come from the file: to spell out a whole text for each would take hours.
        fits = fits and mention.end - mention.start <= MAX_SPELLED * len(mention.text)
        if fits and same_words(text[mention.start : mention.end], mention.text):
            kept.append(mention)
        else:
            left.append(mention)
    rules: dict[str, Callable[[list[RawMention]], Moved]] = {
        "byte_offset": lambda left: _from_bytes(left, text),
        "joined_otherwise": lambda left: _joined_otherwise(left, right, text, passages),
        "shifted_block": lambda left: _shifted_blocks(left, text),
        "wrong_end": lambda left: _with_own_end(left, text),
        "swapped_columns": lambda left: _with_columns_swapped(left, text),
    }
    for name, rule in rules.items():
        moved = rule(left) if left else {}
        for at, better in moved.items():
            kept.append(better)
            surface = better.text[:MAX_SHOWN]
            detail = f"{surface!r} is at {better.start}-{better.end}, not {left[at].start}"
            tally.drop(f"{REPAIRED}{name}", f"{file}:{better.place}", detail)
        left = [mention for at, mention in enumerate(left) if at not in moved]
    for mention in left:
        detail = f"{mention.text[:MAX_SHOWN]!r} is not at {mention.start}-{mention.end}"
        tally.drop(_fault_of(mention, text), f"{file}:{mention.place}", detail)
    return kept


def _fault_of(mention: RawMention, text: str) -> str:
    if mention.end <= mention.start:
        return "mention/empty_span"
    if mention.start < 0 or mention.end > len(text):
        return "mention/past_the_text"
    return "mention/offset_mismatch"


def _move(mention: RawMention, start: int, text: str) -> RawMention | None:
    """Move the mention to `start` if the text there equals its own; else None."""
    end = start + len(mention.text)
    own_length = mention.end - mention.start == len(mention.text)
    if own_length and start >= 0 and _reads(text, start, end, mention.text):
        return mention._replace(start=start, end=end)
    return None


def _from_bytes(left: list[RawMention], text: str) -> Moved:
    """Correct offsets that count UTF-8 bytes, as in some documents of GNormPlus."""
    moved: Moved = {}
    if text.isascii():
        return moved
    starts = [0, *accumulate(len(char.encode()) for char in text)]
    for at, mention in enumerate(left):
        start, end = (bisect_left(starts, offset) for offset in (mention.start, mention.end))
        inside = 0 <= start < end < len(starts)
        whole = inside and (starts[start], starts[end]) == (mention.start, mention.end)
        if whole and _reads(text, start, end, mention.text):
            moved[at] = mention._replace(start=start, end=end)
    return moved


def _joined_otherwise(
    left: list[RawMention], right: list[RawMention], text: str, passages: Sequence[Passage]
) -> Moved:
    """Correct mentions after the title that are all shifted by the same 1 or 2 characters.

    Title and abstract were joined differently: PubTator Central's titles end in a blank, which its
    offsets count as the separator.
    """
    if len(passages) < 2:
        return {}
    seam = passages[1].start
    num_right = sum(mention.start >= seam for mention in right)
    behind = [at for at, mention in enumerate(left) if seam - 2 <= mention.start < len(text)]
    # A blank at the end of the title is evidence; otherwise the mentions must be.
    explained = text[: passages[0].end].endswith(" ")
    for shift in JOINS:
        moved: Moved = {}
        for at in behind:
            better = _move(left[at], left[at].start + shift, text)
            if better and better.start >= seam:
                moved[at] = better
        majority = len(moved) > num_right and 2 * len(moved) > len(behind)
        if majority and (_is_evidence(moved.values()) or explained):
            return moved
    return {}


def _shifted_blocks(left: list[RawMention], text: str) -> Moved:
    """Correct neighbouring mentions with the same shift: the text before them was changed."""
    order = sorted((mention.start, at) for at, mention in enumerate(left))
    shifts = [set(_shifts(left[at], text)) for _, at in order]
    runs: list[tuple[list[int], int]] = []
    for shift in set().union(*shifts):
        fits = [shift in found for found in shifts]
        for fit, run in groupby(range(len(order)), key=fits.__getitem__):
            if fit:
                runs.append((list(run), shift))
    moved: Moved = {}
    for run, shift in sorted(runs, key=lambda pair: (-len(pair[0]), abs(pair[1]))):
        run = [n for n in run if order[n][1] not in moved]
        if not run or not _is_evidence(left[order[n][1]] for n in run):
            continue
        if set.intersection(*(shifts[n] for n in run)) != {shift}:
            continue  # another shift explains them as well
        for n in run:
            start, at = order[n]
            better = _move(left[at], start + shift, text)
            assert better is not None
            moved[at] = better
    return moved


def _is_evidence(mentions: Iterable[RawMention]) -> bool:
    """Whether a joint match is more than chance: at least two mentions, not too short."""
    lengths = {mention.start: len(mention.text) for mention in mentions}
    return len(lengths) > 1 and sum(lengths.values()) >= MIN_EVIDENCE_CHARS


def _shifts(mention: RawMention, text: str) -> Iterator[int]:
    """Yield the shifts, up to MAX_SHIFT either way, at which the text equals the mention."""
    start, end, words = mention.start, mention.end, mention.text
    if len(words) != end - start or not words:
        return
    at = text.find(words, max(0, start - MAX_SHIFT), max(0, end + MAX_SHIFT))
    while at >= 0:
        yield at - start
        at = text.find(words, at + 1, max(0, end + MAX_SHIFT))


def _with_own_end(left: list[RawMention], text: str) -> Moved:
    """Correct a wrong end offset, with or without Greek letters spelled out in the text."""
    moved: Moved = {}
    for at, mention in enumerate(left):
        start, words = mention.start, mention.text
        spelled = spelled_out(words)
        for length in (len(words), len(spelled)):
            there = text[start : start + length] if start >= 0 else ""
            fits = len(there) == length >= MIN_CHARS
            if fits and (there == words or there.lower() == spelled):
                moved[at] = mention._replace(end=start + length)
                break
    return moved


def _with_columns_swapped(left: list[RawMention], text: str) -> Moved:
    """Swap text and type columns back, as in lines of BioCreative VIII."""
    return {
        at: mention._replace(text=mention.type, type=mention.text)
        for at, mention in enumerate(left)
        if entity_type_of(mention.text)
        and mention.start >= 0
        and _reads(text, mention.start, mention.end, mention.type)
    }


def _reads(text: str, start: int, end: int, words: str) -> bool:
    """Whether `text[start:end]` is `words`, which are not empty, without copying a long span."""
    return 0 < len(words) == end - start and text.startswith(words, start)
