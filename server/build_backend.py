"""The build backend: Hatchling, after a check of the Python version.

Without the check, an older pip on an old Python would search for matching versions of the dependencies for minutes.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this code must run on unsupported versions
    sys.exit(f"session-notes needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}")

from hatchling.build import *  # noqa: F403
