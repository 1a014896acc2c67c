"""The tool measures every pipeline and writes what it prints, here on tiny images."""

import json

import pytest
import torch
from pipeline import VARIANTS
from pipeline_peers import one_hot_cells

from detcon_d2.masks import label_map_to_cells


# torchvision's successor for decoding, torchcodec, is not installed with it.
@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")
def test_the_tool_compares_ours_with_the_peers(tmp_path, run_tool):
    output = tmp_path / "out.json"
    numbers = ["--images", "2", "--rounds", "1", "--size", "64", "48", "--ids", "4", "--profile", "--workers", "0", "1"]
    done = run_tool("benchmarks/pipeline.py", *numbers, "--json", output)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    names = {row["name"] for row in result["pipelines"]}
    assert set(VARIANTS) < names and {"torchvision v2, PIL images", "torchvision v2, tensors"} < names
    assert all(row["images_per_second"] > 0 and row["times_fastest_peer"] > 0 for row in result["pipelines"])
    assert all(name in done.stdout for name in names)
    assert {"decode", "regions", "blur"} < set(result["stages_ms"]) and result["stages_ms"]["decode"].keys() == {"exact", "fast"}
    assert result["workers"].keys() == {"exact", "fast"} and set(result["workers"]["fast"]) == {"0", "1"}
    assert min(result["cells_ms"].values()) > 0 and result["machine"]["cores"] >= 1


def test_the_one_hot_that_cells_are_compared_with_gives_the_same_cells():
    label_maps = torch.randint(0, 5, (3, 28, 28), generator=torch.Generator().manual_seed(0))
    found = one_hot_cells(label_maps, 5, 7)
    for cells, label_map in zip(found, label_maps, strict=True):
        assert cells.tolist() == label_map_to_cells(label_map.numpy(), (7, 7)).tolist()
