"""Counts of what was dropped or repaired, by reason, with the first places of each."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

EXAMPLES_PER_REASON = 3
REPAIRED = "repaired/"


@dataclass
class Tally:
    """Counts of dropped and repaired items. A reason is `noun/why`, or `repaired/rule`.

    >>> tally = Tally()
    >>> tally.drop("mention/offset_mismatch", "a.txt:12", "'BRAF' is not at 10-14")
    >>> tally.counts
    Counter({'mention/offset_mismatch': 1})
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, place: str, detail: str = "") -> None:
        """Count one item; the first EXAMPLES_PER_REASON places of a reason are kept."""
        self.counts[reason] += 1
        places = self.examples.setdefault(reason, [])
        if len(places) < EXAMPLES_PER_REASON:
            places.append(f"{place}: {detail}" if detail else place)

    def add(self, counts: Mapping[str, int], examples: Mapping[str, list[str]]) -> None:
        """Add the counts and examples of another tally."""
        self.counts.update(counts)
        for reason, others in examples.items():
            places = self.examples.setdefault(reason, [])
            places += others[: EXAMPLES_PER_REASON - len(places)]

    def lines(self, repaired: bool = False) -> list[str]:
        """One line per reason of drops, or of repairs if `repaired`; the most frequent first."""
        return [
            f"{count:>9,}  {reason}  (first at {self.examples[reason][0]})"
            if self.examples.get(reason)
            else f"{count:>9,}  {reason}"
            for reason, count in self.counts.most_common()
            if reason.startswith(REPAIRED) == repaired
        ]
