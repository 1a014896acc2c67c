"""Fixtures of the engine's tests."""

from pathlib import Path

import pytest

from tests.detectors import write_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in COCO format: 6 training and 4 validation images of 64 px, 8 categories."""
    return write_shapes(tmp_path_factory.mktemp("shapes"))
