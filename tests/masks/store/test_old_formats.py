"""Folders that earlier versions wrote (tests/fixtures/old_label_maps, unfinished work included): read, continued or converted."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from detcon_d2.masks import open_store, read_label_map
from detcon_d2.masks.store.formats import STORES
from detcon_d2.masks.store.merge import merge, take_over
from tests.masks.test_generate import contents

FOLDER = Path(__file__).parents[2] / "fixtures" / "old_label_maps"
EXPECTED = {name.replace("|", "/"): stack for name, stack in np.load(FOLDER / "expected.npz").items()}
FAILED = {"a/bad.jpg": "the file is empty (0 bytes)"}
RECORDS = [{"key": key, "file_name": f"/images/{key}"} for key in [*EXPECTED, *FAILED]]
both = pytest.mark.parametrize("file_format", STORES)


def assert_holds(root: Path) -> None:
    store = open_store(root)
    assert store.keys() == store.references().keys() == EXPECTED.keys() and store.layers == 2
    for key, reference in store.references().items():
        for layer in (0, 1):
            np.testing.assert_array_equal(store.read(key, layer), EXPECTED[key][layer])
            np.testing.assert_array_equal(read_label_map(str(reference), layer), EXPECTED[key][layer])


@both
def test_pngs_and_tars_are_read_and_finished_as_they_are(tmp_path, file_format):
    shutil.copytree(FOLDER / file_format, tmp_path / "m")
    before = contents(tmp_path / "m")
    result = merge(open_store(tmp_path / "m"), RECORDS)
    assert result.is_complete and result.failed == FAILED
    assert_holds(tmp_path / "m")
    after = contents(tmp_path / "m")
    if file_format == "png":
        assert after == before
    else:
        assert sorted(set(after) - set(before)) == ["maps-00000.tar.index.json", "maps-00001.tar.index.json"]
        assert [name for name in before if name not in after] == [".part-machine-1-0"]


@both
@pytest.mark.parametrize("old", ["png", "tar", "shards"])
def test_every_old_format_becomes_what_a_new_run_writes(tmp_path, old, file_format):
    store = take_over(tmp_path / "m", [str(FOLDER / old)], file_format, **({"images_per_file": 3} if file_format == "tar" else {}))
    assert merge(store, RECORDS).failed == FAILED
    assert_holds(tmp_path / "m")
    wanted = STORES[file_format].create(
        tmp_path / "new", store.index["generator"], store.index["params"], store.index["source"], layers=2,
        **({"images_per_file": 3} if file_format == "tar" else {}),
    )  # fmt: skip
    for key, stack in EXPECTED.items():
        wanted.write(key, stack)
    wanted.finish(RECORDS, FAILED)
    wanted.write_failed(FAILED)
    assert contents(tmp_path / "m") == contents(tmp_path / "new")


def test_shards_are_refused_with_the_command_that_converts_them(tmp_path, run_tool):
    shutil.copytree(FOLDER / "shards", tmp_path / "m")
    command = f"python tools/merge_masks.py {tmp_path}/m_tar {tmp_path}/m --format tar"
    with pytest.raises(ValueError, match=f"found label maps in shards.*Convert them with: {command}"):
        open_store(tmp_path / "m")
    done = run_tool("merge_masks.py", *command.split()[2:], "--images", "none")
    assert done.returncode == 1 and "6 images: 5 with label maps, 1 failed, 0 missing, 0 damaged" in done.stdout, done.stderr
    assert_holds(tmp_path / "m_tar")
    for tool, *arguments in (("generate_masks.py", "folder:/x", tmp_path / "x"), ("merge_masks.py", tmp_path / "x")):
        done = run_tool(tool, *arguments, "--format", "shards")
        assert done.returncode == 2 and "shards are no longer written; use tar" in done.stderr


@pytest.mark.parametrize(
    ("where", "message"), [(0, "is damaged"), (-30, "is damaged"), (200, "label map of .* are damaged"), (None, "is damaged")]
)
def test_damaged_shards_are_not_converted(tmp_path, where, message):
    shutil.copytree(FOLDER / "shards", tmp_path / "m")
    path = tmp_path / "m" / "maps-00000.shard"
    data = bytearray(path.read_bytes())
    if where is not None:
        data[where] ^= 1
    path.write_bytes(data if where is not None else b"")
    with pytest.raises(ValueError, match=message):
        take_over(tmp_path / "out", [str(tmp_path / "m")], "tar")
