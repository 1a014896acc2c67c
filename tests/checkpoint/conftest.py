"""Pretraining checkpoints made once for all tests of conversion."""

from pathlib import Path

import pytest

from tests.checkpoint.pretrained import FULL_18, FULL_50, write_pretrained
from tests.detectron2_subset.conftest import backend  # noqa: F401  (a fixture)


@pytest.fixture(scope="session")
def pretrained_b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DetCon_B, a narrow ResNet-50."""
    return write_pretrained(tmp_path_factory.mktemp("b") / "model_final.pth")


@pytest.fixture(scope="session")
def pretrained_s(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DetCon_S, a narrow ResNet-50."""
    return write_pretrained(tmp_path_factory.mktemp("s") / "model_final.pth", MODEL__META_ARCHITECTURE="DetConS")


@pytest.fixture(scope="session")
def pretrained_18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DetCon_S, the usual ResNet-18."""
    return write_pretrained(tmp_path_factory.mktemp("r18") / "model_final.pth", MODEL__META_ARCHITECTURE="DetConS", **FULL_18)


@pytest.fixture(scope="session")
def pretrained_50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DetCon_S, the usual ResNet-50."""
    return write_pretrained(tmp_path_factory.mktemp("r50") / "model_final.pth", MODEL__META_ARCHITECTURE="DetConS", **FULL_50)
