"""What a check says."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    level: Literal["ok", "warning", "error"]
    subject: str
    finding: str
