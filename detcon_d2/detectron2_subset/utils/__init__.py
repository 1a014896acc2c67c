"""Event storage and writers, communication between processes, logging, random seeds and files."""

from ..missing import missing_name

__getattr__ = missing_name(__name__)
