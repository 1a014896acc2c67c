"""The configs of the pretext tasks: names, the batch and length that they state, and a step at the size of the quickstart."""

import re
from pathlib import Path

import pytest
import torch

from detcon_d2 import d2
from detcon_d2.data import build_pretraining_loader, load_training_records
from detcon_d2.engine.visualize import collect_rows, measure_views, render_sheet
from detcon_d2.methods import pretraining_class
from detcon_d2.model_zoo import get_config
from detcon_d2.quickstart.runs import PRETEXT
from detcon_d2.solver import resolve_schedule
from tests.conftest import REPO

QUICKSTART = [method.config for method in PRETEXT]
PUBLISHED = [
    "Rotation/rotation_R_50_in1k_70ep.yaml",
    "RelativePosition/relative_position_R_50_in1k_70ep.yaml",
    "Jigsaw/jigsaw_R_50_in1k_105ep.yaml",
    "Jigsaw/jigsaw_pp_R_50_in1k_105ep.yaml",
    "Jigsaw/damaged_jigsaw_R_50_in1k_105ep.yaml",
    "Colorization/colorization_R_50_in1k_70ep.yaml",
    "Colorization/cross_channel_R_50_in1k_70ep.yaml",
    "Egomotion/egomotion_R_50_in1k_70ep.yaml",
    "CPC/cpc_R_50_in1k_100ep.yaml",
    "CPC/cpc_v2_R_50_in1k_200ep.yaml",
    "S4L/s4l_rotation_R_50_in1k_200ep.yaml",
    "MultiTask/multi_task_R_50_in1k_70ep.yaml",
    "MaskPrediction/mask_prediction_R_50_coco_70ep.yaml",
    "DIM/dim_R_50_in1k_70ep.yaml",
    "AMDIM/amdim_R_50_in1k_50ep.yaml",
    "Counting/counting_R_50_in1k_70ep.yaml",
    "Exemplar/exemplar_R_50_in1k_35ep.yaml",
    "IIC/iic_R_50_in1k_100ep.yaml",
    "DeepCluster/deep_cluster_R_50_in1k_200ep.yaml",
    "SupCon/sup_con_R_50_in1k_1000ep.yaml",
    "ContextEncoder/context_encoder_R_50_in1k_100ep.yaml",
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_runs_have_the_length_and_batch_of_their_head(name):
    cfg = get_config(name)
    head = re.search(r"(\d+) epochs at batch (\d+)", (REPO / "configs" / name).read_text())
    assert (cfg.DETCON.SOLVER.EPOCHS, cfg.SOLVER.IMS_PER_BATCH) == tuple(map(int, head.groups()))
    assert f"_{head[1]}ep" in name and f"output/{name.split('/')[1].removesuffix('.yaml')}" == cfg.OUTPUT_DIR
    resolve_schedule(cfg, 118287 if "coco" in name else 1281167)
    assert cfg.MODEL.RESNETS.DEPTH == 50
    assert not cfg.DETCON.SOLVER.STEP_EPOCHS or max(cfg.SOLVER.STEPS) < cfg.SOLVER.MAX_ITER
    assert all(fulfilled for fulfilled, *_ in pretraining_class(cfg.MODEL.META_ARCHITECTURE).check_config(cfg))


def small_config(name: str, photos: Path) -> "d2.CfgNode":
    cfg = get_config(f"quickstart/{name}")
    cfg.MODEL.DEVICE, cfg.DETCON.PROBE.ENABLED, cfg.DETCON.LOG_PERIOD = "cpu", False, 1
    cfg.DATASETS.TRAIN, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = (f"folder:{photos}",), 4, 0
    cfg.DETCON.MASKS.SOURCE, cfg.DETCON.MASKS.ROOTS = "grid", ()
    return cfg


@pytest.mark.parametrize("name", QUICKSTART)
def test_the_sheet_of_views_shows_what_the_task_sees(name, photos):
    rows = list(collect_rows(small_config(name, photos), 2))
    assert render_sheet(rows, "views").any() and measure_views(rows).constant == 0


@pytest.mark.parametrize("name", QUICKSTART)
def test_quickstart_configs_train_a_step(name, photos):
    cfg = small_config(name, photos)
    method = pretraining_class(cfg.MODEL.META_ARCHITECTURE)
    assert all(fulfilled for fulfilled, *_ in method.check_config(cfg))
    model = d2.build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) < 30e6
    records = load_training_records(cfg, regions=method.Samples.uses_regions)
    with d2.EventStorage() as storage:
        losses = model(next(iter(build_pretraining_loader(cfg, records, model.sample_maker(cfg)))))
        logged = storage.latest()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert {"learning/accuracy", "learning/chance"} <= logged.keys() or {"learning/error_ratio", "learning/information"} & logged.keys()
