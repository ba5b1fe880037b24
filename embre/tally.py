"""What was dropped or repaired on the way, by reason, with the first few places of each."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

EXAMPLES_PER_REASON = 3
REPAIRED = "repaired/"


@dataclass
class Tally:
    """Counts of what could not be kept. A reason is `noun/why`, as in `mention/offset_mismatch`.

    >>> tally = Tally()
    >>> tally.drop("mention/offset_mismatch", "a.txt:12", "'BRAF' is not at 10-14")
    >>> tally.counts
    Counter({'mention/offset_mismatch': 1})
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, place: str, detail: str = "") -> None:
        """Count one loss and remember where, unless enough places are known already."""
        self.counts[reason] += 1
        seen = self.examples.setdefault(reason, [])
        if len(seen) < EXAMPLES_PER_REASON:
            seen.append(f"{place}: {detail}" if detail else place)

    def add(self, counts: Mapping[str, int], examples: Mapping[str, list[str]]) -> None:
        """Add what another tally counted."""
        self.counts.update(counts)
        for reason, places in examples.items():
            seen = self.examples.setdefault(reason, [])
            seen += places[: EXAMPLES_PER_REASON - len(seen)]

    def lines(self, repaired: bool = False) -> list[str]:
        """One line per reason, most frequent first, for a terminal or a log: of what was dropped,
        or of what was mended and not dropped."""
        return [
            f"{count:>9,}  {reason}  (first at {self.examples[reason][0]})"
            if self.examples.get(reason)
            else f"{count:>9,}  {reason}"
            for reason, count in self.counts.most_common()
            if reason.startswith(REPAIRED) == repaired
        ]
