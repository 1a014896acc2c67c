"""Every config of the repository loads, and says what the method's tables say."""

import re
from pathlib import Path

import pytest

from detcon_d2 import add_detcon_config, d2
from detcon_d2.solver import resolve_schedule

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PRETRAINING = sorted([*CONFIGS.glob("DetCon/*.yaml"), *CONFIGS.glob("quickstart/detcon_*.yaml")])
PUBLISHED = sorted(CONFIGS.glob("DetCon/*.yaml"))
IMAGES = {"in1k": 1281167, "coco": 118287}

# Epochs -> base lr, weight decay, tau_0 (method.md, "Optimisation").
TABLE = {100: (0.45, 1e-6, 0.99), 300: (0.3, 1e-6, 0.99), 1000: (0.2, 1.5e-6, 0.996)}


def load(path: Path) -> "d2.CfgNode":
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    cfg.merge_from_file(str(path))
    return cfg


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=name)
def test_every_config_has_known_keys_only(path: Path) -> None:
    load(path)


@pytest.mark.parametrize("path", PRETRAINING, ids=name)
def test_pretraining_configs_override_the_defaults_that_would_hurt(path: Path) -> None:
    cfg = load(path)
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is False
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    # Nothing is computed that the loss does not see; only the quickstart's network ends early.
    assert cfg.MODEL.RESNETS.OUT_FEATURES == [cfg.DETCON.IN_FEATURE] == ["res4" if "quickstart" in name(path) else "res5"]
    assert cfg.MODEL.RESNETS.NORM in ("SyncBN", "BN")
    assert cfg.MODEL.RESNETS.RES2_OUT_CHANNELS == (64 if cfg.MODEL.RESNETS.DEPTH < 50 else 256)
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.WEIGHTS == ""
    assert cfg.SEED >= 0
    assert not cfg.DATALOADER.ASPECT_RATIO_GROUPING and not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    assert (cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.WARMUP_FACTOR, cfg.SOLVER.RESCALE_INTERVAL) == ("WarmupCosineLR", 0.0, True)
    assert len(cfg.DETCON.MASKS.ROOTS) == len(cfg.DATASETS.TRAIN) == 1


@pytest.mark.parametrize("path", PRETRAINING, ids=name)
def test_a_config_is_what_its_name_says(path: Path) -> None:
    cfg = load(path)
    kind, depth = re.match(r"detcon_([bs])_R_(\d+)", path.stem).groups()
    assert cfg.MODEL.META_ARCHITECTURE == f"DetCon{kind.upper()}"
    assert cfg.MODEL.RESNETS.DEPTH == int(depth)


@pytest.mark.parametrize("path", PUBLISHED, ids=name)
def test_published_runs_have_the_length_and_data_of_their_name(path: Path) -> None:
    cfg = load(path)
    data, epochs = re.search(r"_(in1k|coco)_(\d+)ep$", path.stem).groups()
    assert cfg.DETCON.SOLVER.EPOCHS == int(epochs)
    assert cfg.DATASETS.TRAIN[0].startswith({"in1k": "folder:datasets/imagenet", "coco": "coco:datasets/coco"}[data])
    assert cfg.OUTPUT_DIR == f"output/{path.stem}"
    resolve_schedule(cfg, IMAGES[data])
    assert cfg.SOLVER.MAX_ITER == IMAGES[data] * int(epochs) // 4096
    assert cfg.SOLVER.BASE_LR == pytest.approx(cfg.DETCON.SOLVER.BASE_LR_256 * 16)
    assert cfg.SOLVER.WARMUP_ITERS == pytest.approx(IMAGES[data] * 10 / 4096, abs=1)


@pytest.mark.parametrize(("epochs", "steps"), [(100, 31278), (300, 93835), (1000, 312784)])
def test_steps_and_optimisation_are_those_of_the_published_table(epochs: int, steps: int) -> None:
    cfg = load(CONFIGS / f"DetCon/detcon_b_R_50_in1k_{epochs}ep.yaml")
    assert (cfg.DETCON.SOLVER.BASE_LR_256, cfg.SOLVER.WEIGHT_DECAY, cfg.DETCON.EMA.MOMENTUM) == TABLE[epochs]
    resolve_schedule(cfg, IMAGES["in1k"])
    assert cfg.SOLVER.MAX_ITER == steps


@pytest.mark.parametrize("epochs", [200, 500])
def test_interpolated_values_lie_between_their_rows_and_say_so(epochs: int) -> None:
    path = CONFIGS / f"DetCon/detcon_b_R_50_in1k_{epochs}ep.yaml"
    low, high = (100, 300) if epochs == 200 else (300, 1000)
    cfg = load(path)
    found = (cfg.DETCON.SOLVER.BASE_LR_256, cfg.SOLVER.WEIGHT_DECAY, cfg.DETCON.EMA.MOMENTUM)
    for value, a, b in zip(found, TABLE[low], TABLE[high]):
        assert min(a, b) <= value <= max(a, b)
    assert "interpolated" in path.read_text()


@pytest.mark.parametrize("path", PUBLISHED, ids=name)
def test_a_config_names_the_source_of_its_values(path: Path) -> None:
    comment = "".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert re.search(r"\[[BCLM, ]+\]|interpolated", comment)


def test_detcon_s_differs_from_b_as_the_method_says() -> None:
    b, s = (load(CONFIGS / f"DetCon/detcon_{kind}_R_50_in1k_300ep.yaml") for kind in "bs")
    assert (b.DETCON.PROJECTOR.HIDDEN_DIM, b.DETCON.PROJECTOR.OUT_DIM) == (4096, 256)
    assert (s.DETCON.PROJECTOR.HIDDEN_DIM, s.DETCON.PROJECTOR.OUT_DIM) == (2048, 128)
    strengths = [(a.BRIGHTNESS, a.CONTRAST, a.SATURATION, a.HUE) for a in (b.DETCON.AUG, s.DETCON.AUG)]
    assert strengths == [(0.4, 0.4, 0.2, 0.1), (0.8, 0.8, 0.8, 0.2)]
    assert [a.OPERATORS for a in (b.DETCON.AUG, s.DETCON.AUG)] == ["dm_pix", "torchvision"]
    assert [tuple(a.BLUR_PROB) for a in (b.DETCON.AUG, s.DETCON.AUG)] == [(1.0, 0.1), (1.0, 0.0)]
    assert [tuple(a.SOLARIZE_PROB) for a in (b.DETCON.AUG, s.DETCON.AUG)] == [(0.0, 0.2), (0.0, 0.0)]


@pytest.mark.parametrize("path", [p for p in PRETRAINING if "quickstart" in name(p)], ids=name)
def test_quickstart_configs_build_and_are_small(path: Path) -> None:
    cfg = load(path)
    cfg.MODEL.DEVICE = "cpu"
    cfg.DETCON.PROBE.ENABLED = False
    model = d2.build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) < 30e6
