"""Finds the benchmarks' own modules, as a script in their folder does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
