"""Every config has a name in the model zoo, loads, and has the values of the method's tables."""

import re
from pathlib import Path

import pytest

from detcon_d2 import d2
from detcon_d2.engine import load_config
from detcon_d2.model_zoo import find_config, get_config, get_config_file
from detcon_d2.solver import resolve_schedule
from tests.conftest import REPO

CONFIGS = REPO / "configs"
NAMES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
PUBLISHED = [name for name in NAMES if name.startswith("DetCon/")]
QUICKSTART = [name for name in NAMES if name.startswith("quickstart/detcon_")]
IMAGES = {"in1k": 1281167, "coco": 118287}

# Written down from the papers, not read from the files. By data and epochs: steps at batch 4096. By epochs: base learning rate, weight
# decay, tau_0 of DetCon_B on ImageNet.
STEPS = {("in1k", 100): 31278, ("in1k", 200): 62556, ("in1k", 300): 93835, ("in1k", 500): 156392, ("in1k", 1000): 312784}
STEPS["coco", 1000] = 28878
TABLE = {100: (0.45, 1e-6, 0.99), 300: (0.3, 1e-6, 0.99), 1000: (0.2, 1.5e-6, 0.996)}
# What DetCon_B and DetCon_S differ in: projector, colour strengths and operators, blur and solarize probabilities.
DIFFERENCES = {
    "DetConB": (4096, 256, 0.4, 0.4, 0.2, 0.1, "dm_pix", (1.0, 0.1), (0.0, 0.2)),
    "DetConS": (2048, 128, 0.8, 0.8, 0.8, 0.2, "torchvision", (1.0, 0.0), (0.0, 0.0)),
}


def values_of_the_table(cfg: "d2.CfgNode") -> tuple[float, float, float]:
    return cfg.DETCON.SOLVER.BASE_LR_256, cfg.SOLVER.WEIGHT_DECAY, cfg.DETCON.EMA.MOMENTUM


@pytest.mark.parametrize("name", NAMES)
def test_every_config_has_known_keys_only_and_states_where_its_values_are_from(name: str) -> None:
    assert Path(get_config_file(name)) == CONFIGS / name
    assert get_config(name) == load_config(find_config(f"configs/{name}"), [])
    assert (CONFIGS / name).read_text().startswith("# ")
    if name in PUBLISHED:
        assert re.search(r"^#.*\[[BCLM, ]+\]", (CONFIGS / name).read_text(), re.MULTILINE)


def test_an_unknown_name_is_refused_with_similar_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a config of the model zoo\. Similar names: .*DetCon/detcon_b_R_50_in1k_300ep\.yaml"):
        get_config_file("DetCon/detcon_b_R_101_in1k_300ep.yaml")
    with pytest.raises(ValueError, match=r"\.\./setup\.py is not a config"):
        get_config_file("../setup.py")
    own = tmp_path / "own.yaml"
    own.touch()
    assert [find_config(path) for path in (str(own), "", "https://host/a.yaml")] == [str(own), "", "https://host/a.yaml"]


@pytest.mark.parametrize("name", PUBLISHED + QUICKSTART)
def test_pretraining_overrides_the_defaults_that_would_hurt(name: str) -> None:
    cfg = get_config(name)
    kind, depth = re.search(r"detcon_([bs])_R_(\d+)", name).groups()
    assert (f"DetCon{kind.upper()}", int(depth)) == (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.RESNETS.DEPTH)
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is False
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    # Nothing is computed that the loss does not see; only the quickstart's network ends early.
    assert cfg.MODEL.RESNETS.OUT_FEATURES == [cfg.DETCON.IN_FEATURE] == ["res4" if name in QUICKSTART else "res5"]
    assert cfg.MODEL.RESNETS.NORM in ("SyncBN", "BN")
    assert cfg.MODEL.RESNETS.RES2_OUT_CHANNELS == (64 if cfg.MODEL.RESNETS.DEPTH < 50 else 256)
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.WEIGHTS == ""
    assert cfg.SEED >= 0
    assert not cfg.DATALOADER.ASPECT_RATIO_GROUPING and not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    assert (cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.WARMUP_FACTOR, cfg.SOLVER.RESCALE_INTERVAL) == ("WarmupCosineLR", 0.0, True)
    assert len(cfg.DETCON.MASKS.ROOTS) == len(cfg.DATASETS.TRAIN) == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_runs_have_the_values_length_and_data_of_their_name(name: str) -> None:
    cfg = get_config(name)
    kind, data, epochs = re.search(r"detcon_([bs])_.*_(in1k|coco)_(\d+)ep", name).groups()
    assert int(epochs) == cfg.DETCON.SOLVER.EPOCHS
    assert cfg.DATASETS.TRAIN[0].startswith({"in1k": "folder:datasets/imagenet", "coco": "coco:datasets/coco"}[data])
    assert f"output/{Path(name).stem}" == cfg.OUTPUT_DIR
    projector, aug = cfg.DETCON.PROJECTOR, cfg.DETCON.AUG
    colours = (aug.BRIGHTNESS, aug.CONTRAST, aug.SATURATION, aug.HUE, aug.OPERATORS)
    found = (projector.HIDDEN_DIM, projector.OUT_DIM, *colours, tuple(aug.BLUR_PROB), tuple(aug.SOLARIZE_PROB))
    assert found == DIFFERENCES[cfg.MODEL.META_ARCHITECTURE]
    if kind == "s":
        assert values_of_the_table(cfg)[:2] == (0.3, 1e-6)  # the same for every length
    elif (length := 100 if data == "coco" else int(epochs)) in TABLE:
        assert values_of_the_table(cfg) == TABLE[length]
    resolve_schedule(cfg, IMAGES[data])
    assert STEPS[data, int(epochs)] == cfg.SOLVER.MAX_ITER
    assert cfg.SOLVER.BASE_LR == pytest.approx(cfg.DETCON.SOLVER.BASE_LR_256 * 16)
    assert cfg.SOLVER.WARMUP_ITERS == pytest.approx(IMAGES[data] * 10 / 4096, abs=1)


@pytest.mark.parametrize(("low", "epochs", "high"), [(100, 200, 300), (300, 500, 1000)])
def test_interpolated_values_are_between_the_published_ones(low: int, epochs: int, high: int) -> None:
    name = f"DetCon/detcon_b_R_50_in1k_{epochs}ep.yaml"
    for value, a, b in zip(values_of_the_table(get_config(name)), TABLE[low], TABLE[high]):
        assert min(a, b) <= value <= max(a, b)
    assert "interpolated" in (CONFIGS / name).read_text()


@pytest.mark.parametrize("name", QUICKSTART)
def test_quickstart_configs_build_and_are_small(name: str) -> None:
    cfg = get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    cfg.DETCON.PROBE.ENABLED = False
    model = d2.build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) < 30e6
