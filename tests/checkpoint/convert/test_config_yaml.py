"""The config next to converted weights is the one that earlier releases wrote, and its comments tell the user what matters."""

from pathlib import Path

import pytest
import yaml

from detcon_d2 import add_detcon_config, d2
from detcon_d2.checkpoint.convert.converter import detectron2_yaml
from detcon_d2.checkpoint.convert.spec import UNIT, BackboneSpec

CONFIGS = Path(__file__).parent / "configs"
METADATA = {"source_file": "in.pth", "source_sha256": "0" * 64, "encoder": "ema"}
# File in CONFIGS, written by an earlier release -> what it was written for.
SPECS = {
    "r50": (BackboneSpec(50), {}),
    "r50_inside": (
        BackboneSpec(50, width_multiplier=2, stride_in_1x1=True, num_groups=2, width_per_group=32),
        UNIT | {"channel_order": "BGR"},
    ),
    "r18_wide": (BackboneSpec(18, width_multiplier=2, res2_out_channels=64), {}),
    "r200_same": (BackboneSpec(200, padding="same"), {}),
    "r50_res4": (BackboneSpec(50, last_stage=4), {}),
}


def resolved(path: Path) -> dict:
    cfg = d2.get_cfg()
    if "DETCON" in yaml.safe_load(path.read_text()):
        add_detcon_config(cfg)
    cfg.merge_from_file(str(path), allow_unsafe=False)
    return yaml.safe_load(cfg.dump())


@pytest.mark.parametrize("name", SPECS)
def test_the_config_is_that_of_earlier_releases(tmp_path, name):
    spec, facts = SPECS[name]
    (tmp_path / "w.yaml").write_text(detectron2_yaml(spec, METADATA | facts, Path("/weights/w.pkl")))
    assert resolved(tmp_path / "w.yaml") == resolved(CONFIGS / f"{name}.yaml")


def test_the_comments_name_weights_and_assumptions():
    text = detectron2_yaml(BackboneSpec(50), METADATA, Path("/weights/w: # 'é.pkl"))
    assert yaml.safe_load(text)["MODEL"]["WEIGHTS"] == "/weights/w: # 'é.pkl"
    comments = [line for line in text.splitlines() if line.startswith("#")]
    for part in ("in.pth (sha256 000000000000...), ema encoder", "absolute path", "these are DetCon's: channel_order, pixel_mean"):
        assert any(part in line for line in comments), part
