"""The page of ``make bench`` shows every result with its peer's, the ratios of each run, and names what was not measured."""

import functools
import json
import re

from summary import summary_page

MACHINE = {"cpu": "a <processor>", "cores": 2, "versions": {"torch": "2"}}


def a_run(loss_ms: float = 50.0) -> dict[str, dict]:
    row = {"variant": "b", "images": 128, "regions": 16, "processes": 1, "ms": {"ours": loss_ms, "lightly": 200.0}}
    row |= {"ratios": {"lightly": 200.0 / loss_ms}, "peak_mib": {"ours": 10.0, "lightly": 120.0}}
    speeds = {"torchvision v2": (16.0, 0.8), "lightly": (20.0, 1.0), "ours, fast": (300.0, 15.0)}
    pipelines = [{"name": name, "images_per_second": x, "times_fastest_peer": times} for name, (x, times) in speeds.items()]
    mask_rows = [
        {"name": "fh", "size": "500x375", "ms": 26.0, "than": "scikit-image", "than_ms": 182.0, "ratio": 7.0},
        {"name": "2 processes", "size": "500x375", "images_per_s": 70.0, "than": "1 process", "than_images_per_s": 35.0, "ratio": 2.0},
    ]
    problem = {"method": "DetConB", "depth": 18, "images": 32, "size": 97}
    return {
        "loss": {"machine": MACHINE, "rows": [row]},
        "loss_growth": {"machine": MACHINE, "growth": {"b": {"N": [row, row | {"images": 256}]}}},
        "pipeline": {
            "machine": MACHINE,
            "pipelines": pipelines,
            "cells_ms": {"one-hot": 77.0, "cells": 0.14, "both": 1.0},
            "workers": {"fast": {"0": 300.0, "1": 310.0}},
        },
        "masks": {"machine": MACHINE, "rows": mask_rows},
        "step": {
            "machine": MACHINE,
            "problem": problem,
            "seconds": {"ours": [1.0, 2.0, 9.0], "plain fp32": [6.0] * 3},
            "share_of_peak": 0.25,
            "peak": 2e12,
            "share_of_roofline": 0.5,
            "roofline": 1.0,
        },
        "scaling": {"machine": MACHINE, "problem": problem, "seconds": {"1": 1.0, "2": 1.25}},
    }


def rows_of(page: str) -> list[list[str]]:
    """The table's cells without their tags."""
    rows = re.findall("<tr>(.*?)</tr>", page)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall("<t[hd]>(.*?)</t[hd]>", row)] for row in rows]


def test_every_result_is_compared_with_the_ratio_of_each_run():
    second = a_run(loss_ms=40.0)
    second["pipeline"]["pipelines"][0]["images_per_second"] = 22.0  # another peer is the fastest
    rows = rows_of(summary_page([a_run(), second]))
    assert ["DetCon_B loss, N = 128, M = 16, time", "50 ms", "200 ms", "lightly", "4, 5"] in rows
    assert ["DetCon_B loss, N = 128, M = 16, memory", "10 MiB", "120 MiB", "lightly", "12, 12"] in rows
    assert ["two views from JPEG, ours, fast", "300 images/s", "20 images/s", "the fastest peer", "15, 15"] in rows
    assert ["regions to cells, per view", "0.14 ms", "77 ms", "one-hot", "550, 550"] in rows
    assert ["masks, fh, 500x375", "26 ms", "182 ms", "scikit-image", "7, 7"] in rows
    assert ["masks, 2 processes, 500x375", "70 images/s", "35 images/s", "1 process", "2, 2"] in rows
    assert ["DetConB step, ResNet-18, 97 px, batch 32", "2 s", "6 s", "plain fp32", "3, 3"] in rows
    assert ["DetConB step, ResNet-18, 97 px, batch 32", "0.5 TFLOP/s", "2 TFLOP/s", "the fastest product", "0.25, 0.25"] in rows
    roofline = "every operator as fast as its product or memory"
    assert ["DetConB step, ResNet-18, 97 px, batch 32", "2 s", "1 s", roofline, "0.5, 0.5"] in rows
    assert ["DetConB step, ResNet-18, 97 px, batch 32, 2 processes", "51.2 images/s", "32 images/s", "1 process", "1.6, 1.6"] in rows
    assert len(rows) == 11


def test_the_tool_reads_folders_and_refuses_empty_ones(tmp_path, run_tool):
    tool = functools.partial(run_tool, "benchmarks/summary.py")
    run = tmp_path / "run"
    run.mkdir()
    (run / "step.json").write_text(json.dumps(a_run()["step"]))

    assert tool(run).returncode == 0 and "<!DOCTYPE html>" in (run / "summary.html").read_text()
    (tmp_path / "none").mkdir()
    refused = tool(tmp_path / "none")
    assert refused.returncode == 1 and "has none of loss.json" in refused.stderr and "Traceback" not in refused.stderr
    (run / "loss.json").write_text("{")
    assert "loss.json is not JSON" in tool(run).stderr
