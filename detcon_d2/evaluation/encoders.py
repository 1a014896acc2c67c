"""The encoder of a pretraining run, trained or untrained, and the feature maps that it computes of images."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from detcon_d2 import d2
from detcon_d2.checkpoint import DetConCheckpointer
from detcon_d2.config import add_detcon_config
from detcon_d2.methods.base import PretrainingModel


def load_encoder(run: str | Path, trained: bool = True) -> PretrainingModel:
    """The pretraining model of a run on the CPU, by its ``config.yaml``, in evaluation mode.

    Args:
        run: output folder of pretraining, with ``config.yaml`` and ``model_final.pth``.
        trained: load the weights; otherwise the network is at random initialisation, from the config's seed.

    Raises ValueError: the checkpoint lacks parameters of the encoder; lists them.
    """
    run = Path(run)
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    cfg.merge_from_file(str(run / "config.yaml"), allow_unsafe=False)
    cfg.MODEL.DEVICE = "cpu"
    # Synchronised BatchNorm needs processes or CUDA; BN has the same parameters.
    if cfg.MODEL.RESNETS.NORM in ("SyncBN", "naiveSyncBN"):
        cfg.MODEL.RESNETS.NORM = "BN"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(max(cfg.SEED, 0))
        model = d2.build_model(cfg)
    if trained:
        path = run / "model_final.pth"
        checkpointer = DetConCheckpointer(model)
        checkpointer.load(str(path), checkpointables=[])
        missing = [key for key in checkpointer.missing_keys if key.startswith("encoder.")]
        if missing:
            raise ValueError(f"{path} does not fit {run / 'config.yaml'}: expected also {', '.join(missing)}.")
    return model.eval()


@torch.no_grad()
def encode_images(model: PretrainingModel, images: Sequence[np.ndarray], zoom: float) -> list[torch.Tensor]:
    """Feature maps (C, h, w), float32, of images that are enlarged first, so that small images have enough cells.

    The images are mirrored at their borders by one cell, which is cut off from the result: cells at the border are less affected by the
    zero padding. BatchNorm normalises by the statistics of these images together, so that a trained and an untrained network are treated
    alike and running statistics of another image size do not matter. This changes the model's running statistics.

    Args:
        model: from :func:`load_encoder`.
        images: uint8 (H, W, 3) RGB; at least one.
        zoom: factor, >= 1; bicubic.
    """
    margin = model.encoder.output_shape()[model.in_feature].stride
    inputs = []
    for image in images:
        large = cv2.resize(image, (round(image.shape[1] * zoom), round(image.shape[0] * zoom)), interpolation=cv2.INTER_CUBIC)
        mirrored = cv2.copyMakeBorder(large, margin, margin, margin, margin, cv2.BORDER_REFLECT_101)
        inputs.append({"image": torch.from_numpy(mirrored).permute(2, 0, 1).float()})
    model.encoder.train()
    try:
        return [output["features"][:, 1:-1, 1:-1] for output in model.inference(inputs)]
    finally:
        model.encoder.eval()
