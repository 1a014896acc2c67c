"""A folder of PNGs: label maps of different parameters are not mixed, and unusable files are refused."""

import json
import os
import socket
import subprocess
import sys

import cv2
import numpy as np
import pytest

from detcon_d2.io.atomic import remove_leftovers
from detcon_d2.masks import LabelMapStore, grid_label_map, read_label_map
from detcon_d2.masks.store.index import params_hash

FH = {"scale": 1000.0, "sigma": 0.8, "min_size": 1000}


def create(root, generator="fh", params=FH, source="folder:/a", **options) -> LabelMapStore:
    return LabelMapStore.create(root, generator, params, source, **options)


def test_the_index_records_how_the_maps_were_made(tmp_path):
    index = create(tmp_path).index
    assert json.loads((tmp_path / "index.json").read_text()) == index
    assert (index["generator"], index["params"], index["source"]) == ("fh", FH, "folder:/a")
    assert index["versions"]["numpy"] == np.__version__ and {"python", "scikit-image", "opencv", "pillow"} <= index["versions"].keys()
    assert index["hash"] == params_hash("fh", dict(reversed(FH.items()))) != params_hash("fh", FH | {"scale": 999.0})


def test_label_maps_come_back_and_keys_are_the_finished_ones_only(tmp_path):
    store, label_map = create(tmp_path), grid_label_map(100, 90, 32)
    for key in ("a.jpg", "é/b c.png"):
        store.write(key, label_map)
        np.testing.assert_array_equal(read_label_map(tmp_path / f"{key}.png"), label_map)
    (tmp_path / "empty.jpg.png").touch()
    (tmp_path / "failed.txt").write_text("x")
    (tmp_path / ".tmp-host-1-0").write_text("x")
    assert store.keys() == {"a.jpg", "é/b c.png"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": FH | {"scale": 30.0}}, r"found label maps of fh .*1000\.0.*; expected fh .*30\.0.*choose another output folder"),
        ({"generator": "grid", "params": {"size": 2}}, "expected grid"),
        ({"source": "folder:/b"}, "images of folder:/a; expected folder:/b.*--same-images"),
    ],
)
def test_mixing_is_refused(tmp_path, change, message):
    create(tmp_path)
    with pytest.raises(ValueError, match=message):
        create(tmp_path, **change)
    assert create(tmp_path).index["params"] == FH
    assert create(tmp_path, source="folder:/b", same_images=True).index["source"] == "folder:/a"


def test_continuing_with_other_versions_warns(tmp_path, caplog):
    index = create(tmp_path).index
    index["versions"]["numpy"] = "1.0.0"
    (tmp_path / "index.json").write_text(json.dumps(index))
    create(tmp_path)
    assert f"numpy 1.0.0 -> {np.__version__}" in caplog.text and "scipy" not in caplog.text


def test_a_missing_or_edited_index_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"found 1 file\(s\) such as 'thesis.tex' but no index.json"):
        create(tmp_path / "other")
    with pytest.raises(ValueError, match="expected a folder made by"):
        LabelMapStore(tmp_path)
    tmp_path = tmp_path / "m"
    index = create(tmp_path).index
    for text, message in (
        (json.dumps(index | {"params": {}}), "was edited"),
        (json.dumps(index | {"format": "other"}), "format 'other'"),
        ("[]", "damaged"),
        ("{", "damaged"),
    ):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            LabelMapStore(tmp_path)


@pytest.mark.parametrize("key", ["../a.jpg", "a/../../b.jpg", "/etc/a.jpg", "", ".", "a\0.jpg", "a//b.jpg"])
def test_keys_that_leave_the_folder_are_refused(tmp_path, key):
    with pytest.raises(ValueError, match="expected a path below the root"):
        create(tmp_path).path(key)


def test_unusable_label_map_files_are_refused(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match="expected one for every image"):
        read_label_map(path)
    cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint16))
    with pytest.raises(ValueError, match=r"a\.png: found a PNG of .* expected grey.*delete it and run tools/generate_masks.py again"):
        read_label_map(path)
    with pytest.raises(ValueError, match=r"found 1 layer\(s\); expected more than 1"):
        read_label_map(path, 1)


def test_leftovers_of_dead_processes_are_removed_and_of_living_ones_kept(tmp_path):
    create(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname().replace("-", "_")
    names = {pid: tmp_path / f".tmp-{host}-{pid}-0" for pid in (dead.pid, os.getpid())}
    for path in [*names.values(), tmp_path / ".tmp-elsewhere-1-0"]:
        path.touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[os.getpid()].name, ".tmp-elsewhere-1-0", "index.json"])
