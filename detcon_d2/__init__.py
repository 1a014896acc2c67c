"""DetCon pretraining (Hénaff et al., ICCV 2021) for Detectron2.

Importing the package is cheap: names are looked up on first use, so that mask workers never load torch. Asking for
:func:`add_detcon_config` also registers the meta-architectures, the backbones and ``detcon://``, as a Detectron2 project does.
"""

import importlib

__version__ = "0.1.0"

_EXPORTS = {
    "DetConB": "detcon_d2.methods.detcon",
    "DetConS": "detcon_d2.methods.detcon",
    "DetConTrainer": "detcon_d2.engine",
    "add_detcon_config": "detcon_d2.config",
}

__all__ = ["DetConB", "DetConS", "DetConTrainer", "__version__", "add_detcon_config"]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'detcon_d2' has no attribute {name!r}")
    importlib.import_module("detcon_d2.methods")
    importlib.import_module("detcon_d2.checkpoint")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
