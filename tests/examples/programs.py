"""The folder of the examples. Importing this module makes their modules importable."""

import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"

# Python does the same for a program that is started from that folder.
sys.path.insert(0, str(EXAMPLES))
