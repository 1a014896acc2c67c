"""The budget of a run is counted from what the encoders are called with, and is that of the methods' papers for their configs."""

import itertools
from pathlib import Path

import pytest
from torch import nn

from detcon_d2 import d2
from detcon_d2.checkpoint.budget import Budget
from detcon_d2.data import build_pretraining_loader, load_training_records
from detcon_d2.engine import hooks, load_config
from detcon_d2.engine.hooks import BudgetHook, trained_parameters
from detcon_d2.engine.micro_batch import MicroBatches
from tests.conftest import REPO, TINY
from tests.detectors import flat
from tests.engine.test_hooks import Trainer

# Narrow networks and small memories; the views are those of the config.
NARROW = {key: value for key, value in TINY.items() if key != "DETCON.VIEWS.SIZE"} | {
    "MODEL.RESNETS.NORM": "BN",
    "DETCON.HEAD_NORM": "BN",
    "DETCON.PROBE.NUM_CLASSES": 2,
    "DETCON.MOCO.QUEUE": 4,
    "DETCON.SWAV.PROTOTYPES": 8,
    "DETCON.SWAV.QUEUE": 0,
    "DETCON.DINO.OUT_DIM": 8,
    "DETCON.DINO.HIDDEN_DIM": 8,
    "DETCON.DINO.BOTTLENECK_DIM": 8,
    "DETCON.MASKS.KMEANS.K": 2,
    "DETCON.SHUFFLE_AND_LEARN.GAPS": "(1, 0)",  # the clips have ten frames
    "SOLVER.IMS_PER_BATCH": 2,
}


def prepared(config: str, photos: Path, **overrides: object) -> tuple[nn.Module, list[dict]]:
    """The model of a config, and a batch."""
    options = NARROW | {key.replace("__", "."): value for key, value in overrides.items()}
    if "_R_18_" in config:
        options["MODEL.RESNETS.RES2_OUT_CHANNELS"] = 64  # no other width has this depth
    cfg = load_config(str(REPO / "configs" / config), flat(options | {"OUTPUT_DIR": photos}))
    model = d2.build_model(cfg)
    clips = type(model).Samples.needs_frames
    cfg.DATASETS.TRAIN = (f"video:{photos.parent / 'clips'}" if clips else f"folder:{photos}",)
    records = load_training_records(cfg, regions=type(model).Samples.uses_regions)
    return model, next(iter(build_pretraining_loader(cfg, records, model.sample_maker(cfg))))


def count(model: nn.Module, step, images: int) -> dict:
    """The budget of one step of a run."""
    budget = Budget()
    trainer = Trainer(lambda _: step())
    trainer.register_hooks([BudgetHook(budget, model, images)])
    trainer.train(0, 1)
    return budget.metadata()


def forwards(found: dict) -> list[float]:
    return [found["forwards_trained_per_image"], found["forwards_no_grad_per_image"]]


SMALL_CROP = (96 / 224) ** 2
TILES = 9 * (64 / 224) ** 2
PUBLISHED = {
    "Supervised/supervised_R_50_in1k_90ep.yaml": (1, 0),
    "SimCLR/simclr_R_50_in1k_1000ep.yaml": (2, 0),
    "DetCon/detcon_s_R_50_in1k_300ep.yaml": (2, 0),
    "DetCon/detcon_b_R_50_in1k_300ep.yaml": (2, 2),
    "BYOL/byol_R_50_in1k_300ep.yaml": (2, 2),
    "PixPro/pixpro_R_50_in1k_100ep.yaml": (2, 2),
    "MoCo/moco_v2_R_50_in1k_200ep.yaml": (1, 1),
    "DenseCL/densecl_R_50_in1k_200ep.yaml": (1, 1),
    "SwAV/swav_R_50_in1k_800ep.yaml": (2 + 6 * SMALL_CROP, 0),
    "DINO/dino_R_50_in1k_100ep.yaml": (2 + 8 * SMALL_CROP, 2),
    "Rotation/rotation_R_50_in1k_70ep.yaml": (4, 0),
    "RelativePosition/relative_position_R_50_in1k_70ep.yaml": (TILES, 0),
    "Jigsaw/jigsaw_R_50_in1k_105ep.yaml": (TILES, 0),
    "Jigsaw/jigsaw_pp_R_50_in1k_105ep.yaml": (TILES, 0),
    "Jigsaw/damaged_jigsaw_R_50_in1k_105ep.yaml": (TILES, 0),
    "Colorization/colorization_R_50_in1k_70ep.yaml": (1, 0),
    "Colorization/cross_channel_R_50_in1k_70ep.yaml": (2, 0),
    "MaskPrediction/mask_prediction_R_50_coco_70ep.yaml": (1, 0),
    "ContextEncoder/context_encoder_R_50_in1k_100ep.yaml": (1, 0),
    "Counting/counting_R_50_in1k_70ep.yaml": (1.5, 0),
    "Egomotion/egomotion_R_50_in1k_70ep.yaml": (2, 0),
    "MultiTask/multi_task_R_50_in1k_70ep.yaml": (4 + TILES + 1, 0),
    "Exemplar/exemplar_R_50_in1k_35ep.yaml": (8, 0),
    "SupCon/sup_con_R_50_in1k_1000ep.yaml": (2, 0),
    "S4L/s4l_rotation_R_50_in1k_200ep.yaml": (8, 0),
    "VINCE/vince_R_18_r2v2_200ep.yaml": (1, 1),
    "ShuffleAndLearn/shuffle_and_learn_R_50_ucf101_100k.yaml": (3, 0),
    "TrackingByColor/tracking_by_color_R_18_kinetics_400k.yaml": (4 * (256 / 224) ** 2, 0),
    "DIM/dim_R_50_in1k_70ep.yaml": (1, 0),
    "AMDIM/amdim_R_50_in1k_50ep.yaml": (2 * (128 / 224) ** 2, 0),
    "CPC/cpc_R_50_in1k_100ep.yaml": (49 * (64 / 224) ** 2, 0),
    "CPC/cpc_v2_R_50_in1k_200ep.yaml": (36 * (80 / 224) ** 2, 0),
    "IIC/iic_R_50_in1k_100ep.yaml": (2, 0),
    "DeepCluster/deep_cluster_R_50_in1k_200ep.yaml": (1, 0),  # and all images of a refresh, which is no part of a step
}


def test_every_folder_of_methods_has_a_config_in_the_table():
    # Those of transfers have a hyphen: DATASET-Task.
    folders = {path.name for path in (REPO / "configs").iterdir() if path.is_dir() and "-" not in path.name}
    assert {config.split("/")[0] for config in PUBLISHED} == folders - {"quickstart"}


@pytest.mark.parametrize("config", PUBLISHED)
def test_published_configs_have_the_forward_passes_of_their_papers(photos, config):
    model, batch = prepared(config, photos)
    found = count(model, lambda: model(batch), len(batch))
    assert forwards(found) == pytest.approx(PUBLISHED[config], abs=1e-4) and found["images_seen"] == 2
    assert found["forwards_trained"] == pytest.approx(2 * PUBLISHED[config][0])
    assert not model.encoder._forward_pre_hooks, "nothing watches the encoder after the run"


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"DETCON__TWO_VIEWS": False}, (2, 2)),
        ({"DETCON__VIEWS__SIZE": 112}, (0.5, 0.5)),
        ({"DETCON__MASKS__SOURCE": "kmeans"}, (2, 3)),
        ({"DETCON__MASKS__SOURCE": "kmeans", "MODEL__META_ARCHITECTURE": "DetConS"}, (2, 1)),
    ],
)
def test_ablations_and_learned_regions_are_counted_as_they_are(photos, extra, expected):
    model, batch = prepared("DetCon/detcon_b_R_50_in1k_300ep.yaml", photos, **extra)
    assert forwards(count(model, lambda: model(batch), len(batch))) == list(expected)


def test_a_batch_in_parts_costs_what_the_whole_one_does(photos):
    model, batch = prepared("BYOL/byol_R_50_in1k_300ep.yaml", photos, DETCON__VIEWS__SIZE=112, SOLVER__IMS_PER_BATCH=4)
    parts = MicroBatches(model, model, 2, lambda: hooks.torch.autocast("cpu", enabled=False), lambda loss: loss)
    assert forwards(count(model, lambda: parts(batch)[1](), len(batch))) == [0.5, 0.5]


def test_parameters_are_those_that_are_trained_without_the_probe(photos):
    model, _ = prepared("BYOL/byol_R_50_in1k_300ep.yaml", photos)
    heads = sum(parameter.numel() for parameter in model.heads.parameters())
    found = trained_parameters(model)
    assert found == {"parameters_encoder": sum(p.numel() for p in model.encoder.parameters()), "parameters_heads": heads}
    model.encoder.stem.requires_grad_(False)
    assert trained_parameters(model)["parameters_encoder"] < found["parameters_encoder"] and model.probe is not None


class Evaluation(d2.HookBase):
    def __init__(self, clock: itertools.count):
        self._clock = clock

    def after_step(self) -> None:
        for _ in range(100):
            next(self._clock)


def test_seconds_are_those_of_the_steps_and_continue(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(hooks.time, "perf_counter", lambda: float(next(clock)))
    budget = Budget(seconds=50.0)
    trainer = Trainer(lambda _: next(clock))
    trainer.register_hooks([BudgetHook(budget, nn.Linear(1, 1), 8), Evaluation(clock)])
    trainer.train(2, 5)
    assert budget.seconds == 50 + 3 * 2 and trainer.storage.latest()["seconds"][0] == budget.seconds
    assert budget.metadata() == {"images_seen": 24, "seconds": 56.0, "device": "1 x cpu"}
