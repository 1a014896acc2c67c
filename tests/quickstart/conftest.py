"""A finished quickstart to report on."""

from pathlib import Path

import pytest

from tests.quickstart.fake import write_quickstart


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished quickstart; tests do not change it."""
    return write_quickstart(tmp_path_factory.mktemp("quickstart"))
