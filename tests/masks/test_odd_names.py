"""Names that end no job: too long, not UTF-8, with newlines and terminal codes; hints that a shell accepts; and tampered files."""

import ast
import json
import os
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcon_d2.io.references import LabelMapReference
from detcon_d2.masks import list_images, open_store
from detcon_d2.masks.generators.imported import ImportedRegions
from detcon_d2.masks.store.png import decode_png, encode_png, read_label_map
from detcon_d2.masks.store.png_folder import read_failed
from detcon_d2.masks.store.tar_file import index_path, open_tar, write_index, write_tar

LONG = "l" * 251 + ".png"
NAMES = ["a\nb.png", "c\td.png", "\x1b[31me.png", os.fsdecode(b"f\x80.png"), "back\\slash.png"]


def folder_of(root: Path, names: list[str], *broken: str) -> Path:
    root.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (12, 10), (9, 9, 200)).save(root / name, "PNG")
    for name in broken:
        (root / name).write_bytes(b"")
    return root


def generate(run_tool, images: Path, output: Path, *flags: str):
    return run_tool("generate_masks.py", f"folder:{images}", output, "--generator", "grid", "--workers", 1, *flags)


@pytest.mark.parametrize("file_format", ["png", "tar"])
def test_a_name_that_is_too_long_for_its_label_map_costs_only_that_image(tmp_path, run_tool, file_format):
    images = folder_of(tmp_path / "i", [LONG, "z.png", *NAMES])
    done = generate(run_tool, images, tmp_path / "m", "--format", file_format)
    found = open_store(tmp_path / "m").keys()
    assert {"z.png", *NAMES} <= found
    if file_format == "tar":
        assert done.returncode == 0 and LONG in found
    else:
        assert done.returncode == 1 and "1 failed" in done.stdout and "rename it, or make tars with --format tar" in done.stdout


def test_failed_names_are_escaped_and_read_back(tmp_path, run_tool):
    images = folder_of(tmp_path / "i", ["z.png"], *NAMES)
    done = generate(run_tool, images, tmp_path / "m")
    lines = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert done.returncode == 1 and len(lines) == len(NAMES) and all(line.isprintable() for line in lines)
    assert set(read_failed(tmp_path / "m")) == set(NAMES)
    assert (tmp_path / "m" / "failed.txt").read_text().count("\n") == len(NAMES)
    merged = run_tool("merge_masks.py", tmp_path / "m")
    assert merged.returncode == 1 and "5 failed, 0 missing" in merged.stdout


FOLDERS = [
    "Tom's photos",
    "Berlin, Mai",
    "fast (1) [v2]",
    "100% sure #1",
    "köln ☃",
    'say "hi"',
    "dollar $HOME",
    "semi;colon",
    "back\\slash",
]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_hint_is_a_shell_line_with_the_names_as_they_are(tmp_path, run_tool, name):
    images = folder_of(tmp_path / name, ["1.png"])
    done = generate(run_tool, images, tmp_path / f"{name} masks")
    (hint,) = [line for line in done.stdout.splitlines() if line.startswith("train with:")]
    words = shlex.split(hint)[2:]
    values = dict(zip(words[::2], map(ast.literal_eval, words[1::2]), strict=True))
    assert values == {"DATASETS.TRAIN": (f"folder:{images}",), "DETCON.MASKS.ROOTS": (str(tmp_path / f"{name} masks"),)}


def test_there_is_no_hint_where_nothing_was_made(tmp_path, run_tool):
    done = generate(run_tool, folder_of(tmp_path / "i", [], "1.png"), tmp_path / "m")
    assert done.returncode == 1 and "DATASETS.TRAIN" not in done.stdout and "no label map to train with" in done.stdout


def test_a_flag_sets_the_range_of_wide_samples_and_the_limit(tmp_path, run_tool):
    images = folder_of(tmp_path / "i", [])
    Image.fromarray(np.full((10, 12), 70000, np.int32)).save(images / "1.tif")
    assert "32-bit integer" in generate(run_tool, images, tmp_path / "m").stdout
    done = generate(run_tool, images, tmp_path / "n", "--wide-range", "0", "100000")
    assert done.returncode == 0 and "0.0 .. 100000.0 become 0 .. 255" in done.stdout
    assert "exceed the limit of 99" in generate(run_tool, images, tmp_path / "o", "--max-pixels", "99").stdout


def write_maps(path: Path) -> bytes:
    data = encode_png(np.zeros((1, 4, 5), np.uint16))
    tar = write_tar(path, {"generator": "grid", "params": {}, "hash": "x", "layers": 1}, [("a.jpg", data)])
    write_index(path, tar)
    return data


@pytest.mark.parametrize("places", [[["0", 1]], [[0, 10**30]], [[-5, 3]], [[0.5, 2]], [5], [], None])
def test_a_tampered_index_of_a_tar_is_not_used(tmp_path, places):
    data = write_maps(tmp_path / "m.tar")
    index = json.loads(index_path(tmp_path / "m.tar").read_text())
    index_path(tmp_path / "m.tar").write_text(json.dumps(index | {"places": places}))
    tar = open_tar(tmp_path / "m.tar")
    place = tar.places["a.jpg"]
    assert not tar.has_index and place.length == len(data)
    assert read_label_map(LabelMapReference(*place[:1], 1, *place[1:])).shape == (4, 5)


@pytest.mark.parametrize(
    "description", ['["x"]', '{"hash": 3}', '{"generator": "g", "params": {}, "hash": "x", "layers": "2"}', "[" * 100_000]
)
def test_a_tampered_description_is_none(tmp_path, description):
    with tarfile.open(tmp_path / "m.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": description}) as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    assert open_tar(tmp_path / "m.tar").description is None


def test_a_member_that_reaches_out_of_its_tar_is_damage(tmp_path):
    write_maps(tmp_path / "m.tar")
    index_path(tmp_path / "m.tar").unlink()
    data = bytearray((tmp_path / "m.tar").read_bytes())
    start = next(start for start in range(0, len(data), 512) if data[start : start + 5] == b"a.seg")
    # A size that is written in base 256 has 11 bytes.
    data[start + 124 : start + 136] = b"\x80" + (2**80).to_bytes(11, "big")
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    (tmp_path / "m.tar").write_bytes(data)
    with pytest.raises(ValueError, match=r"m\.tar"):
        open_tar(tmp_path / "m.tar")


def test_an_empty_chunk_is_damage():
    data = encode_png(np.zeros((1, 4, 5), np.uint16))
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    empty = data[:start] + b"\0\0\0\0IDAT\x35\xaf\x06\x1e" + data[end:]
    with pytest.raises(ValueError, match="damaged"):
        decode_png(empty)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"annotations":' * 100_000])
def test_masks_in_a_deeply_nested_json_are_refused(tmp_path, text):
    images = folder_of(tmp_path / "i", ["1.png"])
    (tmp_path / "masks.json").write_text(text)
    (record,) = list_images(f"folder:{images}")
    with pytest.raises(ValueError, match="cannot read"):
        ImportedRegions(masks=str(tmp_path / "masks.json"))(np.zeros((10, 12, 3), np.uint8), np.random.default_rng(0), record)
