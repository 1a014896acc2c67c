"""Keys of fine-tuning that depend on machine, batch and data set are set once, with a line each, and what cannot work is refused."""

import importlib.util
import re

import pytest

from detcon_d2.engine import load_config, setup_finetuning
from detcon_d2.engine.finetune.setup import check_finetuning_config, resolve_batch, resolve_steps, resolve_world_size
from tests.conftest import REPO
from tests.detectors import arguments, detector_opts

CONFIG = str(REPO / "configs" / "COCO-InstanceSegmentation" / "mask_rcnn_R_50_FPN_4conv1fc_1x.yaml")


def solver(cfg) -> tuple:
    s = cfg.SOLVER
    return s.IMS_PER_BATCH, s.BASE_LR, s.MAX_ITER, tuple(s.STEPS), s.WARMUP_ITERS, s.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD


def test_another_batch_rescales_rate_and_schedule_linearly_in_one_line():
    cfg = load_config(CONFIG, ["SOLVER.IMS_PER_BATCH", "4", "TEST.EVAL_PERIOD", "5000"])
    (line,) = resolve_batch(cfg, given=["SOLVER.IMS_PER_BATCH"])
    assert solver(cfg) == (4, 0.005, 360000, (240000, 320000), 4000, 20000, 20000)
    assert line == (
        "Batch 4 instead of REFERENCE_IMS_PER_BATCH 16: IMS_PER_BATCH 4, BASE_LR 0.02, MAX_ITER 90000, STEPS (60000, 80000), "
        "WARMUP_ITERS 1000 -> IMS_PER_BATCH 4, BASE_LR 0.005, MAX_ITER 360000, STEPS (240000, 320000), WARMUP_ITERS 4000."
    )


def test_keys_of_the_command_line_stay_as_given():
    cfg = load_config(CONFIG, ["SOLVER.IMS_PER_BATCH", "32", "SOLVER.BASE_LR", "0.03", "SOLVER.MAX_ITER", "10"])
    (line,) = resolve_batch(cfg, given=["SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "SOLVER.MAX_ITER"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (0.03, 10, 500)
    assert line.endswith("(as given: SOLVER.BASE_LR, SOLVER.MAX_ITER).")


@pytest.mark.parametrize("opts", [[], ["SOLVER.IMS_PER_BATCH", "4", "DETCON.FINETUNE.REFERENCE_IMS_PER_BATCH", "0"]])
def test_the_reference_batch_or_no_reference_changes_nothing(opts):
    cfg = load_config(CONFIG, opts)
    before = solver(cfg)
    assert resolve_batch(cfg, given=[]) == [] and solver(cfg) == before


@pytest.mark.parametrize("world_size", [1, 2, 32])
def test_reference_world_size_is_detectron2s_rule(world_size):
    cfg = load_config(CONFIG, ["SOLVER.REFERENCE_WORLD_SIZE", "8", "TEST.EVAL_PERIOD", "5000"])
    (line,) = resolve_world_size(cfg, world_size)
    assert cfg.SOLVER.IMS_PER_BATCH == 2 * world_size and cfg.SOLVER.BASE_LR == pytest.approx(0.02 * world_size / 8)
    assert cfg.SOLVER.MAX_ITER == round(90000 * 8 / world_size)
    assert line.startswith(f"{world_size} processes instead of REFERENCE_WORLD_SIZE 8: IMS_PER_BATCH 16, ")
    # The other rule does not rescale for the same change again.
    assert resolve_batch(cfg, given=[]) == []
    if importlib.util.find_spec("detectron2") is None:
        return
    from detectron2.engine import DefaultTrainer

    expected = load_config(CONFIG, ["SOLVER.REFERENCE_WORLD_SIZE", "8", "TEST.EVAL_PERIOD", "5000"])
    expected.freeze()
    assert solver(cfg) == solver(DefaultTrainer.auto_scale_workers(expected, world_size))


def test_reference_world_size_must_divide_the_batch():
    cfg = load_config(CONFIG, ["SOLVER.REFERENCE_WORLD_SIZE", "3"])
    with pytest.raises(ValueError, match=r"IMS_PER_BATCH is 16; expected a multiple of SOLVER.REFERENCE_WORLD_SIZE 3"):
        resolve_world_size(cfg, 2)


def test_periods_never_become_zero_by_rounding():
    cfg = load_config(CONFIG, ["SOLVER.IMS_PER_BATCH", "160", "SOLVER.CHECKPOINT_PERIOD", "3", "TEST.EVAL_PERIOD", "0"])
    resolve_batch(cfg, given=[])
    assert (cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD) == (1, 0)


def test_steps_that_a_short_run_never_reaches_are_left_out():
    cfg = load_config(CONFIG, ["SOLVER.MAX_ITER", "70000"])
    assert resolve_steps(cfg) == ["SOLVER.STEPS (60000, 80000) -> (60000,): MAX_ITER is 70000."]
    assert resolve_steps(cfg) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "MODEL.META_ARCHITECTURE",
            "MaskRCNN",
            "META_ARCHITECTURE is 'MaskRCNN'; expected 'GeneralizedRCNN', or for pretraining one of .*DetConB",
        ),
        ("SOLVER.IMS_PER_BATCH", "5", "IMS_PER_BATCH is 5; expected a positive multiple of the 2 processes"),
        ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "expected 'TrainingSampler'"),
        ("DETCON.FINETUNE.AUGMENTATION", "mosaic", "AUGMENTATION is 'mosaic'; expected 'default' or 'scale_jitter'"),
        ("DETCON.FINETUNE.LABEL_FRACTION", "1.5", r"LABEL_FRACTION is 1.5; expected a number in \(0, 1\]"),
        ("DETCON.FINETUNE.LABEL_FRACTION", "0.0", r"LABEL_FRACTION is 0.0; expected a number in \(0, 1\]"),
        ("DETCON.DATA.MAX_LEFT_OUT", "10.0", r"MAX_LEFT_OUT is 10.0; expected a share in \[0, 1\]"),
        ("TEST.AUG.ENABLED", "True", "TEST.AUG.ENABLED is True; expected False"),
        ("SOLVER.BASE_LR", "0.0", "BASE_LR is 0.0; expected a number > 0"),
        ("SOLVER.CHECKPOINT_PERIOD", "-1", "CHECKPOINT_PERIOD is -1; expected a number of iterations, or 0"),
    ],
)
def test_wrong_values_name_key_found_and_expected(key, value, message):
    with pytest.raises(ValueError, match=message):
        check_finetuning_config(load_config(CONFIG, [key, value]), world_size=2)


def test_a_wrong_number_of_classes_names_both_numbers_and_the_remedy(shapes, tmp_path):
    with pytest.raises(
        ValueError, match=r"NUM_CLASSES is 80, but coco:.* has 8 categories \(disc, .*\). Set MODEL.ROI_HEADS.NUM_CLASSES 8"
    ):
        setup_finetuning(arguments(detector_opts(shapes, tmp_path, MODEL__ROI_HEADS__NUM_CLASSES=80)))


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ("()", "DATASETS.TRAIN is empty"),
        ('("coco_of_nobody",)', "'coco_of_nobody' is not a data set; expected coco:/path/instances.json,/path/images, voc:"),
        ('("folder:/nowhere",)', "'folder:/nowhere' has no annotations for a detector; expected coco:"),
        ('("coco:/nowhere/instances.json,/nowhere",)', "there is no file /nowhere/instances.json"),
    ],
)
def test_data_sets_that_cannot_be_trained_on_are_refused(shapes, tmp_path, datasets, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        setup_finetuning(arguments(detector_opts(shapes, tmp_path, DATASETS__TRAIN=datasets)))


def test_missing_weights_are_named_before_anything_is_built(shapes, tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.pkl, which does not exist"):
        setup_finetuning(arguments(detector_opts(shapes, tmp_path, MODEL__WEIGHTS=tmp_path / "nothing.pkl")))


def test_setup_says_what_it_changed_and_evaluation_reads_no_training_data(shapes, tmp_path):
    opts = detector_opts(shapes, tmp_path, DETCON__FINETUNE__REFERENCE_IMS_PER_BATCH=16, SOLVER__STEPS="(2,9)")
    cfg, records = setup_finetuning(arguments(opts))
    log = (tmp_path / "log.txt").read_text()
    assert len(records) == 6 and cfg.is_frozen() and cfg.SOLVER.BASE_LR == 0.005
    for text in (
        "Detectron2 backend:",
        "Batch 4 instead of",
        "SOLVER.STEPS (2, 9) -> (2,)",
        "MODEL.FPN.NORM SyncBN -> BN",
        "MODEL.WEIGHTS",
    ):
        assert text in log, text
    nowhere = detector_opts(shapes, tmp_path, DATASETS__TRAIN='("coco:/nowhere.json,/nowhere",)')
    assert setup_finetuning(arguments(nowhere, eval_only=True))[1] == []
