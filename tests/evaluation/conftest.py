"""A finished quickstart, of which the pretraining run is used."""

from tests.quickstart.conftest import quickstart

__all__ = ["quickstart"]
