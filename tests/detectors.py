"""Detectors that train in milliseconds, and a data set for them."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from detcon_d2.quickstart.shapes import ShapesConfig, generate_shapes
from tests.conftest import REPO

BASE = str(REPO / "configs" / "COCO-InstanceSegmentation" / "Base-Mask-RCNN-FPN.yaml")

# An eighth of the width. The keys that a protocol sets are not changed.
NARROW = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
}
# Small images, few proposals, few iterations.
SHORT = {
    "MODEL.WEIGHTS": "",
    "MODEL.ANCHOR_GENERATOR.SIZES": "[[12],[24],[48],[80],[120]]",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 64,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.ROI_HEADS.NUM_CLASSES": 8,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MASK_FORMAT": "bitmask",
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.MAX_ITER": 4,
    "SOLVER.STEPS": "()",
    "SOLVER.WARMUP_ITERS": 1,
    "TEST.PRECISE_BN.NUM_ITER": 2,
    "DETCON.FINETUNE.REFERENCE_IMS_PER_BATCH": 0,
    "DETCON.LOG_PERIOD": 1,
}


def flat(values: Mapping[str, object]) -> list[str]:
    """Return the ``KEY VALUE`` pairs of a command line."""
    return [str(item) for pair in values.items() for item in pair]


def write_shapes(folder: Path, num_train: int = 6, num_val: int = 4) -> Path:
    """Write a data set of 64 px images in COCO format, and return its folder."""
    config = ShapesConfig(size=64, num_unlabeled=1, num_train=num_train, num_val=num_val)
    generate_shapes(folder, config, workers=1, progress=False)
    return folder


def spec(shapes: Path, split: str) -> str:
    """Return the data set spec of a split."""
    return f"coco:{shapes}/annotations/instances_{split}.json,{shapes}/images/{split}"


def detector_opts(shapes: Path, output: Path, **overrides: object) -> list[str]:
    """Return overrides of ``BASE`` for a run of a second or two; ``A__B=c`` overrides key A.B."""
    values = NARROW | SHORT | {"DATASETS.TRAIN": f'("{spec(shapes, "train")}",)', "DATASETS.TEST": f'("{spec(shapes, "val")}",)'}
    values |= {"OUTPUT_DIR": output} | {key.replace("__", "."): value for key, value in overrides.items()}
    return flat(values)


def arguments(opts: list[str], **flags: object) -> argparse.Namespace:
    """Return the output of Detectron2's argument parser."""
    values = {"config_file": BASE, "resume": False, "eval_only": False, "num_gpus": 1, "num_machines": 1, "machine_rank": 0}
    return argparse.Namespace(**values | {"dist_url": "auto", "opts": opts} | flags)
