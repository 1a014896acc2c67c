"""The table and the page hold the numbers of the runs, and say in words where a comparison is not fair."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from detcon_d2.quickstart.compare.document import document
from detcon_d2.quickstart.compare.runs import read_runs
from detcon_d2.quickstart.compare.table import notes_of, table_of
from tests.quickstart.compare.fake import BUDGET, write_checkpoint, write_evaluation, write_finetuning, write_pretraining

TWICE = {"forwards_no_grad_per_image": 2.0, "forwards_no_grad": 2560.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """SimCLR and BYOL, with everything; and a detector from random initialisation."""
    folder = tmp_path_factory.mktemp("compare")
    for name, more, ap in (("SimCLR", {}, 30.25), ("BYOL", TWICE, 33.0)):
        settings = {"DETCON": {"TEMPERATURE": 0.1, "VIEWS": {"SIZE": 224 if name == "BYOL" else 192}}}
        origin = write_pretraining(folder / name / "p", method=name, settings=settings, **more)
        write_finetuning(folder / name / "f", origin, ap)
        write_evaluation(folder / name / "e", origin)
    write_finetuning(folder / "random", {}, 12.0)
    return folder


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory) -> ElementTree.Element:
    return ElementTree.fromstring(document(read_runs([str(folder)])))


def test_the_table_has_every_number_of_every_run(folder):
    head, rows = table_of(read_runs([str(folder)]))
    assert head == [
        *("run", "method", "box AP", "mask AP", "kNN", "probe (moco)", "iterations", "epochs", "images seen", "forwards per image"),
        *("forwards", "seconds", "parameters", "loss", "online probe"),
    ]
    found = {row[0]: row[1:] for row in rows}
    counts = ["20", "2.0", "1,280"]
    rest, accuracies = ["100", "23.50 M + 4.20 M", "1.5", "47.5%"], ["61.5", "70.0"]
    assert found["SimCLR/p"] == ["SimCLR", "30.2", "25.2", *accuracies, *counts, "2.00 + 0.00", "2,560 + 0", *rest]
    assert found["BYOL/p"] == ["BYOL", "33.0", "28.0", *accuracies, *counts, "2.00 + 2.00", "2,560 + 2,560", *rest]
    assert found["random"] == ["random initialisation", "12.0", "7.0", *["–"] * 11]


def test_the_page_is_one_file_without_scripts(page):
    assert not {"script", "link", "iframe"} & {element.tag for element in page.iter()}
    sources = [element.get("src") for element in page.iter("img")]
    assert len(sources) > 15 and all(source.startswith("data:image/svg+xml;base64,") for source in sources)


def test_curves_are_over_images_seconds_and_iterations(page):
    labels = [label.text for label in page.iter("label")]
    assert labels == ["over images seen", "over seconds", "over iterations"] * 2
    targets = [element.get("id") for element in page.iter("input")]
    assert [label.get("for") for label in page.iter("label")] == targets and len(set(targets)) == 6
    charts = [image.get("alt") for image in page.iter("img")]
    for text in ("loss, last values: BYOL/p 1.5, SimCLR/p 1.5", "Online probe, last values: BYOL/p 0.475, SimCLR/p 0.475"):
        assert charts.count(text) == 3
    assert charts.count("Box AP on the validation images, last values: BYOL/p 33, SimCLR/p 30.2, random 12") == 3
    assert not any(chart.startswith(("loss_byol", "loss_simclr")) for chart in charts), "the loss is shown once"


def test_the_page_has_budgets_results_notes_and_the_settings_that_differ(page, folder):
    text = " ".join(" ".join(page.find("body").itertext()).split())
    assert "DETCON.VIEWS.SIZE 224 192" in text and "DETCON.TEMPERATURE" not in text and "OUTPUT_DIR" not in text
    charts = [image.get("alt") for image in page.iter("img")]
    assert "BYOL/p 2,560, SimCLR/p 0, random –" in charts and "BYOL/p 33.0, SimCLR/p 30.2, random 12.0" in charts
    notes = notes_of(read_runs([str(folder)]))
    assert len(notes) == 3 and all(note in text for note in notes)


def runs_of(folder: Path, first: dict | None = None, second: dict | None = None, **parts: tuple[dict, dict]):
    """Two runs that differ as told."""
    for name, changes in (("x", first or {}), ("y", second or {})):
        origin = write_pretraining(folder / name / "p", **changes)
        for kind, write in (("finetuning", write_finetuning), ("evaluation", write_evaluation)):
            if kind in parts:
                write(folder / name / kind, origin, **parts[kind][name == "y"])
    return read_runs([f"{name}={','.join(map(str, sorted((folder / name).iterdir())))}" for name in ("x", "y")])


EQUAL = ["Budgets are equal in images seen: 1,280 to 1,280.", "Budgets are equal in forward passes: 2,560 to 2,560."]


def test_equal_runs_have_no_other_notes(tmp_path):
    assert notes_of(runs_of(tmp_path, finetuning=({}, {"ap": 3.0}), evaluation=({}, {"knn": 3.0}))) == EQUAL


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"second": TWICE}, r"not equal in forward passes: from 2,560 \(x\) to 5,120 \(y\), a factor of 2.00"),
        ({"second": {"images_seen": 1920}}, r"not equal in images seen: .* a factor of 1.50"),
        ({"second": {"dataset_digest": "fedcba9876"}}, "saw different images.*x: folder:/photos .*digest 01234567.; y: .*fedcba98"),
        ({"second": {"device": "8 x H200"}}, "Seconds are those of different devices.* x: 1 x cpu; y: 8 x H200"),
        ({"second": {"method": "BYOL"}}, "Losses of different methods are different functions"),
        ({"second": {"final": False, "iterations": 10}}, "y: pretraining is not finished: 10 of 20"),
        ({"finetuning": ({}, {"data_set": "coco:other"})}, "detection protocols differ. .*within one protocol, never across.*coco:other"),
        ({"finetuning": ({}, {"protocol": "detcon", "label_fraction": 0.1})}, "detection protocols differ.*fraction 0.1"),
        ({"finetuning": ({}, {"ims_per_batch": 16})}, "detection protocols differ.*8 iterations of 16 images"),
        ({"evaluation": ({}, {"size": 32})}, "frozen encoders .* different protocols. Compare within one.*size 224.*size 32"),
    ],
)
def test_what_has_to_be_equal_and_is_not_is_said_in_words(tmp_path, changes, expected):
    notes = [note for note in notes_of(runs_of(tmp_path, **changes)) if note not in EQUAL]
    assert any(re.search(expected, note) for note in notes), notes
    assert all(note.endswith(".") for note in notes)


def test_runs_of_earlier_versions_have_no_budget_and_are_named(tmp_path):
    write_pretraining(tmp_path / "new")
    old = write_pretraining(tmp_path / "old")
    write_checkpoint(tmp_path / "old/model_final.pth", {key: value for key, value in old.items() if key not in BUDGET})
    runs = read_runs([str(tmp_path)])
    assert any("No budget is known of old" in note for note in notes_of(runs))
    assert [row[4:9] for row in table_of(runs)[1] if row[0] == "old"] == [["–"] * 5]
    ElementTree.fromstring(document(runs))


def test_the_tool_writes_the_page_and_prints_the_table_and_the_notes(folder, tmp_path, run_tool):
    done = run_tool("compare.py", folder, "--output", tmp_path / "new/c.html")
    assert done.returncode == 0 and (tmp_path / "new/c.html").is_file()
    assert re.search(r"\| BYOL/p +\| BYOL +\| 33.0 ", done.stdout) and "- Budgets are not equal in forward passes" in done.stdout
    assert "pretraining, settings that differ: DETCON.VIEWS.SIZE" in done.stdout
    refused = run_tool("compare.py", tmp_path / "nothing")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "There is no folder" in refused.stderr
