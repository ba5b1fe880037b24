"""The modules of a tool stand beside its script, where only the script finds them by itself."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools" / "bench"))
