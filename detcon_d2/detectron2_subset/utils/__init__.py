"""Registries, events, communication, logging and files."""

from ..missing import missing_name

__getattr__ = missing_name(__name__)
