"""Hatchling, which builds the package, behind a check: older pips search for versions for minutes on an old Python."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - for Pythons that the package does not support
    sys.exit(f"session-notes needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}")

from hatchling.build import *  # noqa: F403
