"""The configs of the methods on clips: the values of their heads, and a step at the size of the quickstart."""

import pytest
import torch

from detcon_d2 import d2
from detcon_d2.data import build_pretraining_loader, load_training_records
from detcon_d2.engine.visualize import collect_rows, measure_views, render_sheet
from detcon_d2.methods import pretraining_class
from detcon_d2.model_zoo import get_config
from detcon_d2.quickstart.clips import generate_clips
from detcon_d2.quickstart.runs import VIDEO
from detcon_d2.solver import resolve_schedule
from tests.conftest import REPO

PUBLISHED = {
    "VINCE/vince_R_18_r2v2_200ep.yaml": (18, 256, 200 * 5000, (600000, 800000), 0.03, 1e-4),
    "ShuffleAndLearn/shuffle_and_learn_R_50_ucf101_100k.yaml": (50, 128, 100000, (80000,), 0.001, 5e-4),
    "TrackingByColor/tracking_by_color_R_18_kinetics_400k.yaml": (18, 32, 400000, (60000,), 0.001, 0.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_runs_have_the_values_of_their_sources(name):
    cfg = get_config(name)
    resolve_schedule(cfg, 5000 * 256)  # as many frames as the authors of VINCE call an epoch
    found = (cfg.MODEL.RESNETS.DEPTH, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, tuple(cfg.SOLVER.STEPS))
    assert (*found, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == PUBLISHED[name]
    assert f"output/{name.split('/')[1].removesuffix('.yaml')}" == cfg.OUTPUT_DIR and cfg.DATASETS.TRAIN[0].startswith("video:")
    assert "Difference" in (REPO / "configs" / name).read_text()
    assert all(fulfilled for fulfilled, *_ in pretraining_class(cfg.MODEL.META_ARCHITECTURE).check_config(cfg))


def test_vince_has_the_published_head_and_queue():
    detcon = get_config("VINCE/vince_R_18_r2v2_200ep.yaml").DETCON
    found = (detcon.MOCO.QUEUE, detcon.EMA.MOMENTUM, detcon.EMA.SCHEDULE, detcon.MOCO.TEMPERATURE, detcon.PROJECTOR.OUT_DIM)
    assert found == (65536, 0.999, "constant", 0.07, 64)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return generate_clips(tmp_path_factory.mktemp("drawn"), counts={"train": 3})["train"]


@pytest.mark.parametrize("name", [method.config for method in VIDEO.values() if method.masks is None])
def test_quickstart_configs_train_a_step_and_their_sheet_shows_the_frames(name, clips):
    cfg = get_config(f"quickstart/{name}")
    cfg.MODEL.DEVICE, cfg.DETCON.PROBE.ENABLED, cfg.DETCON.LOG_PERIOD = "cpu", False, 1
    cfg.DATASETS.TRAIN, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = (f"video:{clips}",), 4, 0
    rows = list(collect_rows(cfg, 2))
    assert render_sheet(rows, "views").any() and measure_views(rows).constant == 0
    method = pretraining_class(cfg.MODEL.META_ARCHITECTURE)
    assert all(fulfilled for fulfilled, *_ in method.check_config(cfg))
    model = d2.build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) < 30e6
    records = load_training_records(cfg, regions=method.Samples.uses_regions)
    with d2.EventStorage() as storage:
        losses = model(next(iter(build_pretraining_loader(cfg, records, model.sample_maker(cfg)))))
        assert {"learning/accuracy", "learning/chance"} <= storage.latest().keys()
    assert all(torch.isfinite(loss) for loss in losses.values())
