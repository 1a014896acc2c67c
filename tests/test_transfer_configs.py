"""The transfer configs to PASCAL VOC, Cityscapes and C4 have the values of the protocols' tables, and run from one converted backbone."""

from pathlib import Path

import pytest
import torch

from detcon_d2 import d2
from detcon_d2.checkpoint import describe_missing, load_checkpoint_file
from detcon_d2.checkpoint.checkpointer import place_backbone
from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.engine import FinetuneTrainer, load_config, setup_finetuning
from detcon_d2.engine.finetune.predict import Predictor
from detcon_d2.engine.finetune.setup import check_finetuning_config
from detcon_d2.model_zoo import get_config_file
from tests.checkpoint.pretrained import write_pretrained
from tests.detectors import NARROW, SHORT, arguments, flat, spec, write_shapes
from tests.engine.runs import results
from tests.transfer import needs, write_world

VOC, VOC_SEG, CITYSCAPES = "PascalVOC-Detection/", "PascalVOC-SemanticSegmentation/", "Cityscapes-SemanticSegmentation/"
C4 = [f"{VOC}faster_rcnn_R_50_C4.yaml", "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_2x.yaml"]
FPN = f"{VOC}faster_rcnn_R_50_FPN.yaml"
CITYSCAPES_FPN = "Cityscapes-InstanceSegmentation/mask_rcnn_R_50_FPN_24k.yaml"
MOCO = [f"{VOC_SEG}fcn_R_50_moco_30k.yaml", f"{CITYSCAPES}fcn_R_50_moco_90k.yaml"]
DENSECL = [f"{VOC_SEG}fcn_R_50_densecl_20k.yaml", f"{CITYSCAPES}fcn_R_50_densecl_40k.yaml"]
# Written down from the papers' tables, not read from the files: batch, learning rate, weight decay, steps, iterations, warm-up; short sides
# in training and evaluation, and the longest side in evaluation.
VOC_SIZES = (tuple(range(480, 801, 32)), 800, 1333)
SCHEDULES = {
    C4[0]: (16, 0.02, 1e-4, (18000, 22000), 24000, 100, *VOC_SIZES),
    C4[1]: (16, 0.02, 1e-4, (120000, 160000), 180000, 1000, tuple(range(640, 801, 32)), 800, 1333),
    FPN: (16, 0.02, 1e-4, (12000, 16000), 18000, 100, *VOC_SIZES),
    CITYSCAPES_FPN: (8, 0.01, 1e-4, (18000,), 24000, 1000, tuple(range(800, 1025, 32)), 1024, 2048),
    MOCO[0]: (16, 0.003, 1e-4, (21000, 27000), 30000, 0, (256, 1026), 513, 2049),
    MOCO[1]: (16, 0.01, 1e-4, (63000, 81000), 90000, 0, (512, 2050), 1025, 2049),
    DENSECL[0]: (16, 0.01, 5e-4, (), 20000, 0, (256, 1024), 512, 2048),
    DENSECL[1]: (8, 0.01, 5e-4, (), 40000, 0, (512, 2050), 1025, 2049),
}
# Output stride, channels, dilation, input concatenated, dropout, auxiliary weight, aligned corners; crop, share of a class, colours;
# window and its stride.
FCN = {
    MOCO[0]: (16, 256, 6, False, 0.0, 0.0, True, 513, 1.0, False, 0, 0),
    MOCO[1]: (16, 256, 6, False, 0.0, 0.0, True, 769, 1.0, False, 769, 513),
    DENSECL[0]: (8, 512, 1, True, 0.1, 0.4, False, 512, 0.75, True, 0, 0),
    DENSECL[1]: (8, 512, 1, True, 0.1, 0.4, True, 769, 0.75, True, 769, 513),
}
LACKING = {name: "Res5ROIHeads" for name in C4} | {name: "SemanticSegmentor" for name in FCN}


def load(name: str) -> "d2.CfgNode":
    return load_config(get_config_file(name), [])


@pytest.mark.parametrize("name", SCHEDULES)
def test_optimisation_schedule_and_sizes_are_the_protocols(name):
    cfg = load(name)
    solver, sizes, model = cfg.SOLVER, cfg.INPUT, cfg.MODEL
    found = (solver.IMS_PER_BATCH, solver.BASE_LR, solver.WEIGHT_DECAY, tuple(solver.STEPS), solver.MAX_ITER, solver.WARMUP_ITERS)
    assert SCHEDULES[name] == (*found, tuple(sizes.MIN_SIZE_TRAIN), sizes.MIN_SIZE_TEST, sizes.MAX_SIZE_TEST)
    assert list(model.PIXEL_MEAN) == [123.675, 116.28, 103.53] and list(model.PIXEL_STD) == [58.395, 57.12, 57.375]
    assert (sizes.FORMAT, model.RESNETS.STRIDE_IN_1X1, model.RESNETS.NORM, model.BACKBONE.FREEZE_AT) == ("RGB", False, "SyncBN", 0)
    assert cfg.TEST.PRECISE_BN.ENABLED == (name not in FCN) and model.MASK_ON == (name in (C4[1], CITYSCAPES_FPN))
    assert solver.IMS_PER_BATCH == cfg.DETCON.FINETUNE.REFERENCE_IMS_PER_BATCH and cfg.DETCON.FINETUNE.PROTOCOL
    assert solver.WEIGHT_DECAY_NORM == (solver.WEIGHT_DECAY if name in FCN else 0.0)
    assert (model.RPN.PRE_NMS_TOPK_TEST, model.RPN.POST_NMS_TOPK_TEST) == (1000 if "FPN" in name else 6000, 1000)


@pytest.mark.parametrize("name", FCN)
def test_segmentors_are_those_of_their_style(name):
    cfg = load(name)
    own, head = cfg.DETCON.SEM_SEG, cfg.MODEL.SEM_SEG_HEAD
    network = (own.OUTPUT_STRIDE, head.CONVS_DIM, own.DILATION, own.CONCAT_INPUT, own.DROPOUT, own.AUXILIARY_WEIGHT, own.ALIGN_CORNERS)
    data = (cfg.INPUT.CROP.SIZE[1], own.CATEGORY_MAX_AREA, own.PHOTOMETRIC, own.WINDOW, own.WINDOW_STRIDE)
    assert FCN[name] == (*network, *data) and cfg.INPUT.CROP.SIZE[0] == cfg.INPUT.CROP.SIZE[1]
    assert (head.NUM_CLASSES, head.NORM, head.IGNORE_VALUE) == (19 if "cityscapes" in cfg.OUTPUT_DIR else 21, "SyncBN", 255)
    poly = name in DENSECL
    assert ("WarmupPolyLR" if poly else "WarmupMultiStepLR") == cfg.SOLVER.LR_SCHEDULER_NAME
    assert cfg.SOLVER.BASE_LR_END == (1e-4 if poly else 0.0)


@pytest.mark.parametrize("name", LACKING)
def test_what_the_subset_lacks_is_named_before_anything_is_read(name):
    cfg, lacking = load(name), LACKING[name]
    if d2.BACKEND == "detectron2":
        check_finetuning_config(cfg, world_size=8)
        return
    with pytest.raises(
        ValueError, match=rf"^MODEL\.\S+ is '\w+': {lacking} \(.* of Detectron2\) is not in the subset; install detectron2\."
    ):
        check_finetuning_config(cfg, world_size=8)


def test_weights_without_res5_are_refused_for_the_heads_that_have_it():
    missing = ["proposal_generator.conv.weight", "roi_heads.res5.norm.weight", "roi_heads.box_predictor.bbox_pred.weight"]
    assert describe_missing(missing) == "newly initialised, as expected: RPN, norm after res5, box head"
    with pytest.raises(ValueError, match=r"lacks 1 tensors of the backbone:\n  roi_heads\.res5\.0\.conv1\.weight"):
        describe_missing([*missing, "roi_heads.res5.0.conv1.weight"])


def test_a_segmentor_is_no_detector_to_predict_with():
    with pytest.raises(ValueError, match="is 'SemanticSegmentor'; expected a detector"):
        Predictor(load(MOCO[0]), "model_final.pth")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with ``datasets``, and ``shapes`` in COCO format."""
    folder = write_world(tmp_path_factory.mktemp("world"))
    write_shapes(folder / "shapes", num_train=3, num_val=2)
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    """The converted backbone of a narrow ResNet-50."""
    folder = tmp_path_factory.mktemp("backbone")
    convert(write_pretrained(folder / "pretrained.pth"), folder / "backbone.pkl")
    return folder / "backbone.pkl"


FEW = {key: value for key, value in SHORT.items() if "SIZES" not in key and "NUM_CLASSES" not in key} | {"SOLVER.IMS_PER_BATCH": 2}
FEW |= {"SOLVER.MAX_ITER": 2, "SOLVER.WARMUP_ITERS": 0}
SEGMENTATION = {"MODEL.SEM_SEG_HEAD.CONVS_DIM": 16, "INPUT.MIN_SIZE_TRAIN": "(32, 128)", "INPUT.CROP.SIZE": "(48, 48)"}


def overrides(name: str, world: Path) -> dict[str, object]:
    if name in FCN:
        return SEGMENTATION | ({"DETCON.SEM_SEG.WINDOW": 48, "DETCON.SEM_SEG.WINDOW_STRIDE": 32} if name.startswith(CITYSCAPES) else {})
    levels = {"MODEL.ANCHOR_GENERATOR.SIZES": "[[12],[24],[48],[80],[120]]"}
    if name == CITYSCAPES_FPN:
        return levels
    if name == FPN:
        specs = {"DATASETS.TRAIN": '("voc:datasets/VOC2007,trainval",)', "DATASETS.TEST": '("voc:datasets/VOC2007,test",)'}
        # Classes of a spec are those that occur.
        specs |= {"MODEL.ROI_HEADS.NUM_CLASSES": 2}
        return levels | (specs if d2.BACKEND == "subset" else {})
    coco = {"MODEL.ROI_HEADS.NUM_CLASSES": 8, "DATASETS.TRAIN": f'("{spec(world / "shapes", "train")}",)'}
    coco |= {"DATASETS.TEST": f'("{spec(world / "shapes", "val")}",)'}
    return {"MODEL.ANCHOR_GENERATOR.SIZES": "[[12,24,48]]"} | (coco if name == C4[1] else {})


NEW = {
    FPN: "FPN, RPN, box head",
    CITYSCAPES_FPN: "FPN, RPN, box head, mask head",
    C4[0]: "RPN, norm after res5, box head",
    C4[1]: "RPN, norm after res5, box head, mask head",
    **dict.fromkeys(FCN, "segmentation head"),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_config_trains_and_evaluates_from_the_same_converted_backbone(name, world, backbone, tmp_path, monkeypatch):
    if name in LACKING:
        needs(LACKING[name])
    monkeypatch.chdir(world)
    values = NARROW | FEW | overrides(name, world) | {"MODEL.WEIGHTS": str(backbone), "OUTPUT_DIR": str(tmp_path)}
    trainer = FinetuneTrainer(*setup_finetuning(arguments(flat(values), config_file=get_config_file(name))))
    trainer.resume_or_load(resume=False)
    log = (tmp_path / "log.txt").read_text()
    assert f"newly initialised, as expected: {NEW[name]}." in log
    assert ("becomes roi_heads.res5" in log) == (name in C4)

    found = trainer.network.state_dict()
    placed = place_backbone(load_checkpoint_file(backbone)["model"], found.keys())
    assert {key.partition(".")[0] for key in placed} == {"backbone", *(["roi_heads"] if name in C4 else [])}
    for key, value in placed.items():
        assert torch.equal(found[key], torch.as_tensor(value)), key

    trainer.train()
    (tasks,) = results(tmp_path)["results"].values()
    if name in FCN:
        assert isinstance(trainer.network, d2.SemanticSegmentor)
        assert 0 <= tasks["sem_seg"]["mIoU"] <= 100 and "IoU-person" in tasks["sem_seg"]
    else:
        assert set(tasks) == {"bbox", *(["segm"] if "mask_rcnn" in name else [])} and 0 <= tasks["bbox"]["AP"] <= 100
        if name.startswith(VOC) and d2.BACKEND == "detectron2":
            assert set(tasks["bbox"]) == {"AP", "AP50", "AP75"}
