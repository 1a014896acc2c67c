"""The files of ``configs/``: part of an installed package, or at the top of a checkout. Importing this module does not import torch."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detcon_d2 import d2

_INSTALLED = Path(__file__).parent / "configs"
# setup.py copies configs/ into the installed package; a checkout (and an editable installation of it) has it at the top only.
_CONFIGS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[2] / "configs"


def get_config_file(config_path: str) -> str:
    """The path of a config by its name relative to ``configs/``, such as "DetCon/detcon_b_R_50_in1k_300ep.yaml".

    Raises ValueError: no config has this name; the message lists the most similar names.
    """
    names = sorted(path.relative_to(_CONFIGS).as_posix() for path in _CONFIGS.rglob("*.yaml"))
    if config_path not in names:
        similar = difflib.get_close_matches(config_path, names, n=3, cutoff=0.5)
        hint = f"Similar names: {', '.join(similar)}." if similar else f"The configs are in {_CONFIGS}."
        raise ValueError(f"{config_path} is not a config of the model zoo. {hint}")
    return str(_CONFIGS / config_path)


def find_config(config_file: str) -> str:
    """What ``--config-file`` of a tool names: a path, a URL, "" (no config file), or, where no file has this path, a name in the model zoo.

    "configs/" may precede the name, so that a command written for a checkout also works without one.

    Raises ValueError: neither a file nor a name in the model zoo.
    """
    if not config_file or "://" in config_file or Path(config_file).is_file():
        return config_file
    try:
        return get_config_file(config_file.removeprefix("./").removeprefix("configs/"))
    except ValueError as error:
        raise ValueError(f"Config file {config_file} does not exist, and {error}") from None


def get_config(config_path: str) -> "d2.CfgNode":
    """The config of :func:`get_config_file`, with all keys of Detectron2 and of this package."""
    # Registers the meta-architectures and backbones too; only here is torch needed.
    from detcon_d2 import add_detcon_config, d2
    from detcon_d2.io.config_files import merge_config_file

    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    merge_config_file(cfg, get_config_file(config_path))
    return cfg
