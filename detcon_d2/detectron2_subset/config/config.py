"""The config tree and its defaults."""

import ast
import functools
import logging
from pathlib import Path
from typing import IO, Any

import yaml
from fvcore.common.config import CfgNode as _FvcoreCfgNode

from ..utils.file_io import PathManager


class CfgNode(_FvcoreCfgNode):
    """The CfgNode of fvcore (``_BASE_``, merging, freezing). It also checks VERSION, and it reads files through ``PathManager``."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a YAML file; the files named by ``_BASE_`` are merged first.

        A file without VERSION is read as a file of this config's version. ``allow_unsafe`` permits YAML tags that run Python code; unlike
        Detectron2, the subset does not permit them by default.

        Raises:
            KeyError: the file has a key that this config does not have.
            ValueError: the file has another config VERSION.
        """
        loaded = self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe)
        expected = self.get("VERSION")
        found = loaded.get("VERSION")
        if found is None:
            logging.getLogger("detectron2.config").warning(f"{cfg_filename} has no VERSION; it is read as version {expected}.")
        elif expected is not None and found != expected:
            raise ValueError(
                f"{cfg_filename} has config VERSION {found}, but this config has VERSION {expected}. "
                "The subset does not convert between versions; load and dump the file with Detectron2."
            )
        self.merge_from_other_cfg(type(self)(loaded))


def get_cfg() -> CfgNode:
    """Return a new copy of the default config. It has all keys and default values of Detectron2, and is not frozen."""
    return _defaults().clone()


@functools.cache
def _defaults() -> CfgNode:
    text = Path(__file__).with_name("defaults.yaml").read_text(encoding="utf-8")
    return CfgNode(_with_tuples(yaml.safe_load(text)))


def _with_tuples(value: Any) -> Any:
    # YAML has no tuples, but yacs distinguishes tuples from lists: the file writes tuples as Python literals.
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return ast.literal_eval(value) if isinstance(value, str) and value.startswith("(") else value
