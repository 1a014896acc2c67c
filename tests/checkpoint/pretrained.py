"""Pretraining checkpoints as the trainer writes them, with weights that make every tensor count."""

from pathlib import Path

import torch

from detcon_d2 import add_detcon_config, d2
from detcon_d2.checkpoint import load_checkpoint_file
from detcon_d2.checkpoint.metadata import pretraining_metadata
from tests.conftest import REPO, TINY


def pretraining_config(**overrides: object) -> "d2.CfgNode":
    """Base-DetCon.yaml with the tiny ResNet-50; ``A__B=c`` overrides key A.B."""
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    cfg.merge_from_file(str(REPO / "configs" / "Base-DetCon.yaml"))
    values = TINY | {"MODEL.RESNETS.NORM": "BN", "DETCON.HEAD_NORM": "BN", "DETCON.PROBE.ENABLED": False}
    values |= {key.replace("__", "."): value for key, value in overrides.items()}
    cfg.merge_from_list([str(item) for pair in values.items() for item in pair])
    return cfg


METHOD = {"encoder": "online in encoder.*", "mask_parameters": "grid 2"}
"""What a model reports about itself, except its name."""
FULL_18 = {
    "MODEL__RESNETS__DEPTH": 18,
    "MODEL__RESNETS__STEM_OUT_CHANNELS": 64,
    "MODEL__RESNETS__RES2_OUT_CHANNELS": 64,
    "MODEL__RESNETS__WIDTH_PER_GROUP": 64,
}
FULL_50 = FULL_18 | {"MODEL__RESNETS__DEPTH": 50, "MODEL__RESNETS__RES2_OUT_CHANNELS": 256}


def write_pretrained(path: Path, **overrides: object) -> Path:
    """Write the checkpoint of a model of that config; norms and their statistics are random, so that no block reduces to its shortcut."""
    cfg = pretraining_config(**overrides)
    torch.manual_seed(0)
    model = d2.build_model(cfg)
    state = model.state_dict()
    for key, value in state.items():
        if "norm" in key and value.is_floating_point():
            value.copy_(torch.rand_like(value) * 0.5 + 0.5)
        elif key.endswith("num_batches_tracked"):
            value.fill_(7)
    metadata = pretraining_metadata(cfg, 100, "digest", METHOD | {"method": cfg.MODEL.META_ARCHITECTURE})
    metadata |= {"iterations": 50, "epochs": 2.0}
    torch.save({"model": state, "metadata": metadata, "iteration": 49}, path)
    return path


def rewrite(source: Path, path: Path, change: object) -> Path:
    """A copy of a checkpoint after ``change(data)``."""
    data = load_checkpoint_file(source)
    change(data)
    torch.save(data, path)
    return path
