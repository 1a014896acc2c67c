"""A complete Mask R-CNN that runs in milliseconds, images for it, and its numbers, which are the same on both backends."""

import zlib

import numpy as np
import torch
from torch import nn

# ResNet-50 with an eighth of the width, pyramid and heads with 32 channels, 5 classes.
TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.MASK_ON": True,
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 200,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.NUM_CLASSES": 5,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 32,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 2,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 8,
}
HEAD_NORMS = {"ROI_BOX_HEAD__NORM": "naiveSyncBN_N", "ROI_MASK_HEAD__NORM": "naiveSyncBN_N"}
STATISTICS = {"PIXEL_MEAN": [123.675, 116.28, 103.53], "PIXEL_STD": [58.395, 57.12, 57.375]}
RPN_LIMITS = {"RPN__PRE_NMS_TOPK_TRAIN": 80, "RPN__POST_NMS_TOPK_TRAIN": 30, "RPN__NMS_THRESH": 0.5, "PROPOSAL_GENERATOR__MIN_SIZE": 6}
LOSSES = {"RPN__SMOOTH_L1_BETA": 0.1, "RPN__LOSS_WEIGHT": 0.5, "RPN__BBOX_REG_LOSS_WEIGHT": 3.0, "RPN__BBOX_REG_WEIGHTS": (2, 2, 1, 1)}
ALL = {"ROI_HEADS__SCORE_THRESH_TEST": 0.0}
CASES = {
    "standard": {},
    "resnet18": {"RESNETS__DEPTH": 18, "RESNETS__RES2_OUT_CHANNELS": 64, "RESNETS__STEM_OUT_CHANNELS": 64},
    "frozen": {"RESNETS__NORM": "FrozenBN", "BACKBONE__FREEZE_AT": 2},
    "4conv1fc": {"FPN__NORM": "naiveSyncBN", "ROI_BOX_HEAD__NUM_CONV": 4, "ROI_BOX_HEAD__NUM_FC": 1, **HEAD_NORMS},
    "group_norm": {"FPN__NORM": "GN", "ROI_MASK_HEAD__NORM": "GN"},
    "agnostic": {"ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True, "ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True, "FPN__FUSE_TYPE": "avg"},
    "rgb_statistics": {**ALL, **STATISTICS},
    "rpn": {"RPN__CONV_DIMS": [-1, 6], "RPN__BOUNDARY_THRESH": 0, "ANCHOR_GENERATOR__OFFSET": 0.5, **RPN_LIMITS, **ALL},
    "losses": {"ROI_BOX_HEAD__SMOOTH_L1_BETA": 0.5, "ROI_BOX_HEAD__BBOX_REG_LOSS_WEIGHT": 3.0, **LOSSES},
    "sampling": {"ROI_HEADS__IOU_THRESHOLDS": [0.1], "ROI_HEADS__POSITIVE_FRACTION": 0.5, "RPN__IOU_THRESHOLDS": [0.1, 0.3]},
    "roi_align": {"ROI_BOX_HEAD__POOLER_TYPE": "ROIAlign", "ROI_MASK_HEAD__POOLER_SAMPLING_RATIO": 2, **ALL},
}
"""Name -> options of :func:`tiny_config`."""
BOXES = {0: [[4.0, 6.0, 40.0, 44.0], [30.0, 20.0, 90.0, 60.0], [10.5, 5.25, 24.0, 30.0]], 1: [[8.0, 8.0, 50.0, 70.0]], 2: []}
SIZES = {0: (64, 96), 1: (80, 60), 2: (64, 64)}


def tiny_config(backend, **options):
    """Return the config of :data:`TINY`; ``A__B=c`` overrides MODEL.A.B."""
    cfg = backend.get("config").get_cfg()
    values = TINY | {f"MODEL.{key.replace('__', '.')}": value for key, value in options.items()}
    cfg.merge_from_list([item for pair in values.items() for item in pair])
    return cfg


def build_tiny(backend, **options):
    """Return the model of :func:`tiny_config`, with varied scores and masks."""
    torch.manual_seed(0)
    return spread(backend.get("modeling").build_model(tiny_config(backend, **options)))


def spread(model: nn.Module) -> nn.Module:
    """Sample the layers that start near zero from wider distributions, and the statistics of norms; in place."""
    generator = torch.Generator().manual_seed(1)
    spreads = {"cls_score": 0.3, "bbox_pred": 0.05, "predictor": 0.3, "objectness_logits": 0.1, "anchor_deltas": 0.05}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            part, kind = name.split(".")[-2:]
            if kind == "weight" and part in spreads:
                parameter.normal_(std=spreads[part] * (32 / parameter.shape[1]) ** 0.5, generator=generator)
            if part == "norm":
                parameter.uniform_(0.3, 0.7, generator=generator)
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(std=0.1, generator=generator)
            if name.endswith("running_var"):
                value.uniform_(1.0, 2.0, generator=generator)
    return model


def truth(backend, image: int, masks: str = "polygon"):
    """Return the objects of image 0 (three), 1 (one) or 2 (none), with ``gt_boxes``, ``gt_classes`` and ``gt_masks``."""
    structures, size = backend.get("structures"), SIZES[image]
    boxes = torch.tensor(BOXES[image]).reshape(-1, 4)
    objects = structures.Instances(size, gt_boxes=structures.Boxes(boxes), gt_classes=torch.arange(len(boxes)) + 1)
    if masks == "polygon":
        objects.gt_masks = structures.PolygonMasks([[_kite(box)] for box in boxes.tolist()])
    else:
        objects.gt_masks = structures.BitMasks(torch.stack([torch.zeros(size), *(_left_half(box, size) for box in boxes.tolist())])[1:])
    return objects


def _kite(box):
    x1, y1, x2, y2 = box
    return np.array([x1, (y1 + y2) / 2, (x1 + x2) / 2, y1, x2, (y1 + y2) / 2, (x1 + x2) / 2, y2])


def _left_half(box, size):
    x1, y1, x2, y2 = map(int, box)
    mask = torch.zeros(size)
    mask[y1:y2, x1 : (x1 + x2) // 2] = 1
    return mask


def batch(backend, images=(0, 1), masks: str = "polygon"):
    """Return the output of a mapper for the images: ``image`` uint8, ``instances``, and the original size, ``height`` x ``width``."""
    generator = torch.Generator().manual_seed(2)
    inputs = []
    for index in images:
        height, width = SIZES[index]
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        inputs.append({"image": image, "instances": truth(backend, index, masks), "height": 2 * height, "width": width // 2})
    return inputs


def train_step(backend, model, inputs, seed=3):
    """Return the losses of one forward pass in training, and the scalars that it recorded."""
    torch.manual_seed(seed)
    with backend.get("utils.events").EventStorage() as storage:
        losses = model.train()(inputs)
    return losses, {name: value for name, (value, _) in storage.latest().items()}


def detect(model, inputs):
    """Return the detections of a model in evaluation mode."""
    with torch.no_grad():
        return model.eval()(inputs)


def measure(backend, variant: str) -> dict:
    """Return the numbers of a variant, to six digits: norms of the initial weights, losses, scalars, norms of the gradients, detections."""
    masks = "bitmask" if variant == "roi_align" else "polygon"
    torch.manual_seed(0)
    model = backend.get("modeling").build_model(tiny_config(backend, **CASES[variant]))
    numbers = {"initial": _norms(model.named_parameters())}
    with torch.no_grad():
        # The order in which layers are initialised differs between the backends.
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                parameter.normal_(std=(0.7 / parameter[0].numel()) ** 0.5, generator=generator)
    numbers["detections"] = [_sums(one["instances"]) for one in detect(spread(model), batch(backend, (0, 1, 2)))]
    losses, scalars = train_step(backend, model, batch(backend, (0, 1, 2), masks))
    sum(losses.values()).backward()
    gradients = _norms((name, parameter.grad) for name, parameter in model.named_parameters() if parameter.grad is not None)
    numbers |= {"losses": {name: loss.item() for name, loss in losses.items()}, "scalars": scalars, "gradients": gradients}
    return _rounded(numbers)


def _sums(found) -> list[float]:
    """Number of detections, of each class, sum of the scores, of each coordinate of the boxes and of the areas of the masks."""
    parts = (found.pred_classes.bincount(minlength=5), found.scores.sum(), found.pred_boxes.tensor.sum(dim=0), found.pred_masks.sum())
    return [len(found), *(value for part in parts for value in part.flatten().tolist())]


def _norms(tensors) -> dict[str, float]:
    """The L2 norm of each part: a stage of the backbone, a level of the pyramid, or a layer of a head."""
    parts: dict[str, list[torch.Tensor]] = {}
    for name, tensor in tensors:
        parts.setdefault(".".join(name.split(".")[:-1][:3]), []).append(tensor.detach().double().flatten())
    return {name: torch.cat(values).norm().item() for name, values in parts.items()}


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else float(f"{value:.6g}")
