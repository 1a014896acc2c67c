"""The fine-tuning configs have the values of the protocols' table, and build."""

import pytest
import torch

from detcon_d2 import d2
from detcon_d2.engine import load_config
from detcon_d2.engine.finetune.setup import check_finetuning_config
from detcon_d2.engine.setup import DETECTOR_NORMS, resolve_norms
from detcon_d2.model_zoo import get_config_file
from tests.conftest import REPO
from tests.detectors import NARROW, flat

PREFIX = "mask_rcnn_R_50_FPN_"
# Written down from the papers' tables, not read from the files: box head (convolutions, fully connected, norm), mask head norm, batch,
# learning rate, weight decay; then STEPS and MAX_ITER.
HEADS = {
    "standard": ((0, 2, ""), "", 16, 0.02, 1e-4),
    "4conv1fc": ((4, 1, "SyncBN"), "SyncBN", 16, 0.02, 1e-4),
    "detcon": ((0, 2, ""), "SyncBN", 64, 0.1, 4e-5),
}
SCHEDULES = {
    "standard_1x": ((60000, 80000), 90000),
    "standard_2x": ((120000, 160000), 180000),
    "4conv1fc_1x": ((60000, 80000), 90000),
    "4conv1fc_2x": ((120000, 160000), 180000),
    "detcon_1x": ((16000, 21333), 24000),
    "detcon_2x": ((32000, 42666), 48000),
    "standard_10pct": ((15000, 20000), 22500),
    "standard_1pct": ((6000, 8000), 9000),
}


def load(name: str, *opts: str) -> "d2.CfgNode":
    return load_config(get_config_file(f"COCO-InstanceSegmentation/{PREFIX}{name}.yaml"), list(opts))


def test_every_protocol_has_both_schedules():
    files = (REPO / "configs" / "COCO-InstanceSegmentation").glob(f"{PREFIX}*.yaml")
    assert {path.stem.removeprefix(PREFIX) for path in files} == set(SCHEDULES)


@pytest.mark.parametrize("config", SCHEDULES)
def test_every_config_overrides_the_defaults_that_would_cost_ap(config):
    cfg = load(config)
    model = cfg.MODEL
    assert list(model.PIXEL_MEAN) == [123.675, 116.28, 103.53] and list(model.PIXEL_STD) == [58.395, 57.12, 57.375]
    assert cfg.INPUT.FORMAT == "RGB"
    assert model.RESNETS.STRIDE_IN_1X1 is False and model.RESNETS.DEPTH == 50
    assert model.RESNETS.NORM == model.FPN.NORM == "SyncBN"
    assert model.BACKBONE.FREEZE_AT == 0
    assert cfg.TEST.PRECISE_BN.ENABLED and model.MASK_ON
    assert f"output/{PREFIX}{config}" == cfg.OUTPUT_DIR
    check_finetuning_config(cfg, world_size=8)


@pytest.mark.parametrize("config", SCHEDULES)
def test_heads_optimisation_schedule_and_sizes_are_the_protocols(config):
    cfg, (protocol, length) = load(config), config.split("_")
    finetune = cfg.DETCON.FINETUNE
    box, mask_norm, batch, lr, decay = HEADS[protocol]
    assert (cfg.MODEL.ROI_BOX_HEAD.NUM_CONV, cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.NORM) == box
    assert mask_norm == cfg.MODEL.ROI_MASK_HEAD.NORM
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == (batch, lr, decay)
    assert batch == finetune.REFERENCE_IMS_PER_BATCH
    assert (cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER) == SCHEDULES[config]
    assert (500 if protocol == "detcon" else 1000) == cfg.SOLVER.WARMUP_ITERS
    assert finetune.PROTOCOL == (config if "pct" in length else protocol)
    assert {"1pct": 0.01, "10pct": 0.1}.get(length, 1) == finetune.LABEL_FRACTION
    if protocol == "detcon":
        assert (finetune.AUGMENTATION, finetune.JITTER_SCALE, finetune.JITTER_SIZE) == ("scale_jitter", (0.8, 1.25), 1024)
        assert cfg.INPUT.MIN_SIZE_TEST == cfg.INPUT.MAX_SIZE_TEST == 1024
    else:
        assert finetune.AUGMENTATION == "default"
        assert tuple(cfg.INPUT.MIN_SIZE_TRAIN) == tuple(range(640, 801, 32))
        assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)


@pytest.mark.parametrize("protocol", HEADS)
def test_the_models_of_the_protocols_build_with_their_heads_and_norms(protocol):
    cfg = load(f"{protocol}_1x", *flat(NARROW))
    resolve_norms(cfg, 1, DETECTOR_NORMS)
    model = d2.build_model(cfg)
    (convs, fcs, _), mask_norm = HEADS[protocol][:2]
    box_head = dict(model.roi_heads.box_head.named_children())
    assert sum(key.startswith("conv") for key in box_head) == convs
    assert {f"fc{index + 1}" for index in range(fcs)} <= set(box_head) and f"fc{fcs + 1}" not in box_head
    norms = [module for module in model.roi_heads.mask_head.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == (4 if mask_norm else 0)
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
