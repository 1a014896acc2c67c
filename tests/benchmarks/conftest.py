"""The files of tools/benchmarks import each other by name, as they do when one of them is run."""

import sys

from tests.conftest import REPO

sys.path.insert(0, str(REPO / "tools" / "benchmarks"))
