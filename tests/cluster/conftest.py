"""The modules of a script stand beside it, where only the script finds them by itself."""

import sys
from pathlib import Path

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
sys.path.append(str(CLUSTER))
