"""The built-in photographs, and the table of the pretext tasks."""

import json

import numpy as np
import pytest

from detcon_d2.engine.setup import load_config
from detcon_d2.masks import open_store
from detcon_d2.model_zoo import find_config
from detcon_d2.quickstart import clips, photos, pretext
from detcon_d2.quickstart.commands import run_chains
from detcon_d2.quickstart.evidence import parse_args
from detcon_d2.quickstart.pretext import THRESHOLDS, command, run_pretext, table
from detcon_d2.quickstart.runs import PRETEXT, VIDEO
from detcon_d2.quickstart.shapes_textures import load_half


@pytest.mark.parametrize("name", photos.PHOTOGRAPHS)
def test_crops_are_upright_squares_of_the_photograph(name):
    half = load_half(name, "val")
    crop = photos.crop_photo(half, 48, np.random.default_rng(0))
    assert crop.shape == (48, 48, 3) and crop.dtype == np.uint8
    assert np.array_equal(crop, photos.crop_photo(half, 48, np.random.default_rng(0)))
    assert abs(crop.mean() - half.mean()) < 90


def test_both_splits_are_written_once_and_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "SPLITS", {"train": 9, "val": 8})
    folders = photos.generate_photos(tmp_path, 32)
    files = {split: sorted(folder.rglob("*.png")) for split, folder in folders.items()}
    assert [len(found) for found in files.values()] == [9, 8]
    assert {path.parent.name for path in files["val"]} == set(photos.PHOTOGRAPHS)
    content = files["train"][0].read_bytes()
    assert content != files["val"][0].read_bytes()
    files["train"][0].write_bytes(b"")
    photos.generate_photos(tmp_path, 32)
    assert files["train"][0].read_bytes() == b""
    (tmp_path / "train-32.done").unlink()
    photos.generate_photos(tmp_path, 32)
    assert files["train"][0].read_bytes() == content


def test_every_pretext_task_has_a_threshold_and_its_command_a_config_that_exists(tmp_path):
    # Held-out images have no clusters.
    assert set(THRESHOLDS) == {method.name for method in PRETEXT if method.masks is None} - {"deep_cluster"} | VIDEO.keys()
    for name in THRESHOLDS:
        words = command(tmp_path / "run", name, 3, {"train": "video:clips", "val": f"folder:{tmp_path}"}).words
        cfg = load_config(find_config(words[2]), list(words[4:]))
        assert (cfg.SEED, cfg.SOLVER.MAX_ITER) == (3, pretext.ITERATIONS)
        assert (cfg.DATASETS.TRAIN, cfg.DETCON.HELD_OUT.DATASETS) == (("video:clips",), (f"folder:{tmp_path}",))
        roots = {split: (str(tmp_path / f"clips-regions/{split}"),) for split in ("train", "val")}
        assert cfg.DETCON.HELD_OUT.ROOTS == (roots["val"] if name == "mask_prediction_clips" else ())
        assert name != "mask_prediction_clips" or cfg.DETCON.MASKS.ROOTS == roots["train"]


def test_the_table_says_whether_a_threshold_is_reached(tmp_path):
    rows = {"rotation": {"held_out/accuracy": 0.36, "held_out/chance": 0.25, "learning/accuracy": 0.5}}
    rows["context_encoder"] = {"held_out/error_ratio": 0.95, "learning/error_ratio": 0.8}
    rows["mask_prediction_clips"] = {"held_out/iou": 0.4, "held_out/iou_center": 0.3, "learning/iou": 0.5}
    for name, row in rows.items():
        (tmp_path / name / "stages").mkdir(parents=True)
        (tmp_path / name / "metrics.json").write_text(json.dumps({"iteration": 299} | row))
        (tmp_path / name / "stages/pretrain.json").write_text(json.dumps({"seconds": 90}))
    found = list(table([(name, 0, tmp_path / name) for name in rows]))
    assert found[2] == "| Rotation | 0 | accuracy | 0.360 | 0.500 | 0.250 | ≥ 0.35 | yes | 1.5 |"
    assert found[3] == "| Context encoder | 0 | error_ratio | 0.950 | 0.800 |  | ≤ 0.9 | no | 1.5 |"
    assert found[4] == "| Mask prediction, objects of clips | 0 | iou | 0.400 | 0.500 | 0.300 | ≥ 0.3 | yes | 1.5 |"


def test_the_command_line_has_the_tasks_and_refuses_others(tmp_path):
    args = parse_args(["--pretext"])
    assert (args.methods, args.seeds) == (list(THRESHOLDS), [0])
    with pytest.raises(ValueError, match="--pretext found the methods detcon_b; expected some of rotation"):
        run_pretext(tmp_path, ["detcon_b"], [0], 1)
    with pytest.raises(SystemExit):
        parse_args(["--pretext", "--knn"])
    assert parse_args(["--pretext", "--methods", "vince"]).methods == ["vince"]
    with pytest.raises(SystemExit):
        parse_args(["--methods", "vince"])


def test_methods_on_clips_get_clips_and_the_others_photographs(tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "SPLITS", {"train": 1, "val": 1})
    monkeypatch.setattr(clips, "SPLITS", {"train": 1, "val": 1})
    assert pretext.data_of(tmp_path, "vince") == {split: f"video:{tmp_path / 'clips' / split}" for split in ("train", "val")}
    data = pretext.data_of(tmp_path, "mask_prediction_clips")
    run_chains({one.title: [one] for one in pretext.label_maps(tmp_path, "mask_prediction_clips", data)})
    assert open_store(tmp_path / "clips-regions/val").index["generator"] == "imported"
    assert pretext.data_of(tmp_path, "rotation") == {split: f"folder:{tmp_path / 'photos' / split}" for split in ("train", "val")}
