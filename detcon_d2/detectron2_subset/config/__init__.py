"""Configuration: CfgNode, the default config and the ``configurable`` decorator."""

from ..missing import missing_name
from .config import CfgNode, get_cfg
from .configurable import configurable

__all__ = ["CfgNode", "configurable", "get_cfg"]
__getattr__ = missing_name(__name__)
