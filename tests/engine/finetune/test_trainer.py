"""Fine-tuning learns, resumes, and evaluates to the same AP afterwards. Results and checkpoint describe how they were made."""

import argparse
import importlib.util
import logging
import os
from pathlib import Path

import pytest
import torch

from detcon_d2 import d2
from detcon_d2.checkpoint import load_checkpoint_file
from detcon_d2.engine import main
from detcon_d2.engine.step import NonFiniteLossError
from tests.detectors import arguments, detector_opts, flat, spec
from tests.engine.runs import StopAfter, Stopped, final_state, finetuner, metrics, momenta, output_of, results, start, train
from tests.prepared import launch


def run(opts: list[str], resume: bool = False):
    return train(finetuner(opts, resume=resume), resume)


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory) -> Path:
    """The output of a run of four iterations."""
    folder = tmp_path_factory.mktemp("finished")
    run(detector_opts(shapes, folder))
    return folder


def test_the_loss_falls_on_images_that_are_seen_again_and_again(shapes, tmp_path):
    extra = {"SOLVER__MAX_ITER": 24, "SOLVER__BASE_LR": 0.04, "DATASETS__TEST": "()", "TEST__PRECISE_BN__ENABLED": False}
    run(detector_opts(shapes, tmp_path, **extra))
    losses = [row["total_loss"] for row in metrics(tmp_path) if "total_loss" in row]
    assert len(losses) == 24 and sum(losses[-4:]) < 0.8 * sum(losses[:4])


@pytest.mark.parametrize("extra", [{"DETCON__CHANNELS_LAST": False}, {"SOLVER__AMP__ENABLED": True}], ids=["contiguous", "bf16"])
def test_the_first_losses_are_the_same_in_every_memory_format_and_precision(shapes, tmp_path, finished, extra):
    run(detector_opts(shapes, tmp_path, SOLVER__MAX_ITER=1, DATASETS__TEST="()", **extra))
    # The box loss depends on the sampled proposals, and these depend on rounding.
    for loss in ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_mask"):
        assert metrics(tmp_path)[0][loss] == pytest.approx(metrics(finished)[0][loss], rel=0.02), loss


def test_log_results_and_checkpoint_describe_the_run(shapes, finished):
    losses = {"total_loss", "loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
    logged = {key for row in metrics(finished) for key in row}
    assert losses | {"lr", "data_time", "images_per_second", "bbox/AP", "segm/AP"} <= logged

    content = results(finished)
    assert set(content) == {"backend", "iteration", "protocol", "weights", "seconds", "results"}
    assert (content["iteration"], content["weights"]) == (4, "") and content["backend"].startswith(d2.BACKEND)
    ((name, tasks),) = content["results"].items()
    assert name == spec(shapes, "val") and {"AP", "AP50", "AP-disc", "AP-heart"} <= set(tasks["bbox"]) & set(tasks["segm"])
    # The images have no large object.
    assert tasks["bbox"]["APl"] is None and 0 <= tasks["bbox"]["AP"] <= 100

    state = final_state(finished)
    found = state["metadata"]
    assert found["method"] == "GeneralizedRCNN" and found["iterations"] == state["iteration"] + 1 == 4
    assert (found["dataset_size"], found["channel_order"], found["depth"], found["norm"]) == (6, "RGB", 50, "BN")
    assert found["classes"][0] == "disc" and found["category_ids"] == list(range(1, 9))
    assert found["backend"].startswith(d2.BACKEND)
    assert (
        found["images_seen"] == 4 * found["ims_per_batch"] and 0 < found["seconds"] < content["seconds"] and "forwards_trained" not in found
    )


def test_eval_only_gives_the_ap_of_the_end_of_training_and_takes_the_last_checkpoint_on_resume(shapes, finished, tmp_path):
    at_the_end = results(finished)["results"]
    weights = str(finished / "model_final.pth")
    main(arguments(detector_opts(shapes, tmp_path, MODEL__WEIGHTS=weights), eval_only=True))
    assert results(tmp_path)["results"] == at_the_end
    assert (results(tmp_path)["weights"], results(tmp_path)["iteration"]) == (weights, 4)
    (tmp_path / "last_checkpoint").write_text(weights)
    (tmp_path / "results.json").unlink()
    main(arguments(detector_opts(shapes, tmp_path), eval_only=True, resume=True))
    assert results(tmp_path)["results"] == at_the_end


@pytest.fixture(scope="module")
def backbone(finished, tmp_path_factory) -> Path:
    """A checkpoint with the ResNet of ``finished`` only, and its metadata."""
    state = final_state(finished)
    kept = {key: value for key, value in state["model"].items() if key.startswith("backbone.bottom_up.")}
    path = tmp_path_factory.mktemp("backbone") / "backbone.pth"
    torch.save({"model": kept, "metadata": state["metadata"] | {"method": "DetConB", "epochs": 300.0}}, path)
    return path


WRONG_ORDER = "INPUT.FORMAT is 'BGR'; expected 'RGB'"


@pytest.mark.parametrize(
    ("weights", "opts", "flags", "message"),
    [
        (None, {}, {"eval_only": True}, "MODEL.WEIGHTS is empty"),
        (None, {"DATASETS__TEST": "()"}, {"eval_only": True}, "DATASETS.TEST is empty"),
        (None, {}, {"eval_only": True, "resume": True}, "there is no checkpoint in"),
        ("backbone", {}, {"eval_only": True}, "not a pretrained backbone"),
        ("finished", {"INPUT__FORMAT": "BGR"}, {"eval_only": True}, WRONG_ORDER),
        ("backbone", {"INPUT__FORMAT": "BGR"}, {}, WRONG_ORDER),
    ],
)
def test_what_cannot_be_trained_or_evaluated_is_refused_first(shapes, finished, backbone, tmp_path, capsys, weights, opts, flags, message):
    path = {None: "", "backbone": backbone, "finished": finished / "model_final.pth"}[weights]
    with pytest.raises(SystemExit) as stopped:
        main(arguments(detector_opts(shapes, tmp_path, MODEL__WEIGHTS=path, **opts), **flags))
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "metrics.json").exists()


def test_a_detector_with_frozen_statistics_can_be_fine_tuned_further(shapes, tmp_path):
    frozen = {"MODEL__RESNETS__NORM": "FrozenBN", "MODEL__FPN__NORM": '""', "SOLVER__MAX_ITER": 1, "DATASETS__TEST": "()"}
    run(detector_opts(shapes, tmp_path / "first", **frozen))
    trainer = run(detector_opts(shapes, tmp_path / "next", MODEL__WEIGHTS=tmp_path / "first" / "model_final.pth", **frozen))
    assert trainer.metadata.values["pretrained_norm"] == "FrozenBN"


def test_from_a_backbone_one_line_names_what_is_new_and_the_metadata_is_kept(shapes, tmp_path, backbone, caplog):
    trainer = finetuner(detector_opts(shapes, tmp_path, MODEL__WEIGHTS=backbone, SOLVER__MAX_ITER=1))
    trainer.resume_or_load(resume=False)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], "fvcore lists hundreds of keys"
    log = (tmp_path / "log.txt").read_text()
    assert f"{backbone}: newly initialised, as expected: FPN, RPN, box head, mask head." in log
    trainer.checkpointer.save("model_0000000", iteration=0)
    found = load_checkpoint_file(tmp_path / "model_0000000.pth")["metadata"]
    assert (found["method"], found["pretrained_method"], found["pretrained_epochs"]) == ("GeneralizedRCNN", "DetConB", 300.0)
    weight = "backbone.bottom_up.res5.2.conv3.weight"
    torch.testing.assert_close(trainer.network.state_dict()[weight], load_checkpoint_file(backbone)["model"][weight], rtol=0, atol=0)
    backbone_less = finetuner(detector_opts(shapes, tmp_path, SOLVER__MAX_ITER=1), resume=True)
    backbone_less.resume_or_load(resume=True)
    assert backbone_less.metadata.values["pretrained_method"] == "DetConB"


def test_a_resumed_run_continues_iteration_weights_optimizer_and_schedule(shapes, tmp_path):
    opts = detector_opts(shapes, tmp_path, SOLVER__CHECKPOINT_PERIOD=2, SOLVER__STEPS="(3,)", DATASETS__TEST="()")
    interrupted = finetuner(opts)
    interrupted.register_hooks([StopAfter(2)])
    with pytest.raises(Stopped):
        interrupted.train()
    resumed = finetuner(opts, resume=True)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    torch.testing.assert_close(resumed.network.state_dict(), interrupted.network.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(resumed.optimizer.state_dict()["state"], interrupted.optimizer.state_dict()["state"], rtol=0, atol=0)
    resumed.train()
    assert [row["iteration"] for row in metrics(tmp_path)][-2:] == [2, 3]
    assert metrics(tmp_path)[-1]["lr"] == pytest.approx(0.002)
    assert final_state(tmp_path)["metadata"]["iterations"] == 4


def test_resume_of_a_finished_run_evaluates_it_again(shapes, finished, tmp_path):
    (tmp_path / "last_checkpoint").write_text(str(finished / "model_final.pth"))
    run(detector_opts(shapes, tmp_path), resume=True)
    assert results(tmp_path)["results"] == results(finished)["results"]


def test_nan_stops_the_run_and_the_saved_batch_loads_safely(shapes, tmp_path):
    trainer = finetuner(detector_opts(shapes, tmp_path))
    with torch.no_grad():
        next(trainer.network.roi_heads.box_predictor.cls_score.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"loss is not finite at iteration 0.*nan_batch_iter0_rank0.pth.*lower learning rate"):
        trainer.train()
    saved = load_checkpoint_file(tmp_path / "nan_batch_iter0_rank0.pth")
    record = saved["batch"][0]
    assert len(saved["batch"]) == 4 and record["image"].shape == (3, 64, 64)
    assert len(record["gt_boxes"]) == len(record["gt_classes"]) > 0
    assert not (tmp_path / "model_final.pth").exists()


def test_gradients_are_clipped_where_the_config_says_so(shapes, tmp_path):
    def largest_step(folder: Path, **extra: object) -> float:
        run(detector_opts(shapes, folder, SOLVER__MAX_ITER=1, SOLVER__WEIGHT_DECAY=0.0, DATASETS__TEST="()", **extra))
        return max(momentum.norm().item() for momentum in momenta(final_state(folder)))

    clip = {"SOLVER__CLIP_GRADIENTS__ENABLED": True, "SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "norm"}
    assert largest_step(tmp_path / "free") > 0.2
    assert largest_step(tmp_path / "clipped", SOLVER__CLIP_GRADIENTS__CLIP_VALUE=0.1, **clip) == pytest.approx(0.1, rel=1e-3)


def run_main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    main(args)


def test_two_processes_equal_one_with_the_double_batch(shapes, tmp_path, monkeypatch):
    """Losses and gradients of a step. Nothing is sampled, every process has as many proposals: then means of means are means."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    extra = {"SOLVER__MAX_ITER": 1, "INPUT__RANDOM_FLIP": "none", "DATALOADER__ASPECT_RATIO_GROUPING": False, "DATASETS__TEST": "()"}
    extra |= {"MODEL__RPN__BATCH_SIZE_PER_IMAGE": 10000, "MODEL__RPN__POSITIVE_FRACTION": 1.0, "MODEL__RPN__NMS_THRESH": 1.0}
    extra |= {"MODEL__RPN__POST_NMS_TOPK_TRAIN": 2000}
    extra |= {"MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 2000, "MODEL__ROI_HEADS__POSITIVE_FRACTION": 1.0}
    extra |= {"MODEL__ROI_HEADS__PROPOSAL_APPEND_GT": False, "MODEL__MASK_ON": False, "TEST__PRECISE_BN__ENABLED": False}
    extra |= {"MODEL__ROI_BOX_HEAD__NUM_CONV": 1, "MODEL__ROI_BOX_HEAD__NORM": "SyncBN"}
    # Fewer layers than the config's 50, each of which magnifies rounding.
    extra |= {"MODEL__RESNETS__DEPTH": 18, "MODEL__RESNETS__RES2_OUT_CHANNELS": 64}
    run(detector_opts(shapes, tmp_path / "one", **extra))
    launch(run_main, arguments(detector_opts(shapes, tmp_path / "two", **extra), num_gpus=2))
    assert "MODEL.ROI_BOX_HEAD.NORM SyncBN -> naiveSyncBN_N" in (tmp_path / "two" / "log.txt").read_text()
    one, two = (metrics(tmp_path / name)[0] for name in ("one", "two"))
    for loss in ("loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"):
        assert two[loss] == pytest.approx(one[loss], abs=1e-5), loss
    one, two = (momenta(final_state(tmp_path / name)) for name in ("one", "two"))
    assert len(one) == len(two) > 100
    # BatchNorm over the 16 values of a channel of res5 magnifies rounding: another memory format moves gradients as much.
    for index, (a, b) in enumerate(zip(one, two)):
        assert (a - b).norm() <= 0.05 * a.norm() + 1e-5, index
    total_one, total_two = (torch.cat([momentum.flatten() for momentum in run]) for run in (one, two))
    assert (total_one - total_two).norm() <= 5e-3 * total_one.norm()


def test_evaluation_over_two_processes_is_that_of_one(shapes, finished, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    opts = detector_opts(shapes, tmp_path, MODEL__WEIGHTS=finished / "model_final.pth")
    launch(run_main, arguments(opts, num_gpus=2, eval_only=True))
    assert results(tmp_path)["results"] == results(finished)["results"]


OFFICIAL = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"


def test_detectron2s_official_config_trains_with_overrides_only(shapes, tmp_path):
    installed = importlib.util.find_spec("detectron2")
    checkout = os.environ.get("DETCON_D2_CHECKOUT") or (installed and Path(installed.origin).parents[1])
    if not checkout or not Path(checkout, "configs", OFFICIAL).is_file():
        pytest.skip(f"needs Detectron2's configs/{OFFICIAL}: set DETCON_D2_CHECKOUT to a checkout (make test-detectron2 D2=path does)")
    overrides = {"MODEL.DEVICE": "cpu", "MODEL.WEIGHTS": "", "SOLVER.IMS_PER_BATCH": 2, "SOLVER.MAX_ITER": 2, "DATALOADER.NUM_WORKERS": 0}
    overrides |= {"DATASETS.TRAIN": f'("{spec(shapes, "train")}",)', "DATASETS.TEST": "()", "INPUT.MASK_FORMAT": "bitmask"}
    overrides |= {"MODEL.ROI_HEADS.NUM_CLASSES": 8, "INPUT.MIN_SIZE_TRAIN": "(64,)", "OUTPUT_DIR": tmp_path}
    output_of(start(flat(overrides), config=str(Path(checkout, "configs", OFFICIAL))))
    assert final_state(tmp_path)["iteration"] == 1
