"""The report is one file that parses and needs no other file, and its numbers are those of the runs."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from detcon_d2.quickstart.quickstart import quickstart_runs
from detcon_d2.quickstart.report.report import _Parts, main
from tests.quickstart.fake import BOX_AP


@pytest.fixture(scope="module")
def document(quickstart: Path, tmp_path_factory: pytest.TempPathFactory) -> ElementTree.Element:
    output = tmp_path_factory.mktemp("report") / "new" / "report.html"
    assert main([str(quickstart), "--output", str(output)]) is None and not (quickstart / "report.html").exists()
    return ElementTree.fromstring(output.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def text(document: ElementTree.Element) -> str:
    return " ".join(" ".join(document.find("body").itertext()).split())


def test_nothing_is_loaded_from_outside_and_links_lead_to_sections(document):
    addresses = [element.get(name) for element in document.iter() for name in ("src", "href") if name in element.attrib]
    images = [address for address in addresses if re.match(r"data:image/(jpeg|svg\+xml);base64,", address)]
    anchors = [address[1:] for address in addresses if address.startswith("#")]
    assert len(images) > 7 and len(images) + len(anchors) == len(addresses)
    assert anchors == [section.get("id") for section in document.iter("section")] and len(anchors) == 8
    assert not {"script", "link", "iframe"} & {element.tag for element in document.iter()}
    assert not re.search(r"url\(|@import", document.find("head/style").text)


def test_tables_hold_the_metrics_of_every_run_their_differences_and_a_dash_for_missing_ones(text):
    assert f"+{BOX_AP['detcon_b'] - BOX_AP['random']:.1f} AP DetCon_B, FH regions compared with random initialisation" in text
    assert "random initialisation 14.1 28.1 – 11.1 30.0 12.0" in text
    assert "DetCon_B, FH regions 21.4 42.7 – 18.4 30.0 12.0" in text
    assert "gain of DetCon_B, FH regions +7.3 +14.6 – +7.3 +0.0 +0.0" in text
    assert re.search(r"disc \d+ 15\.1 22\.4 – –", text) and "agrees with its category with probability 0.8" in text


def test_markup_in_the_name_of_a_category_is_text(quickstart):
    parts = _Parts(quickstart, quickstart_runs(quickstart))
    parts.images.categories[1] = '<img src="x" onerror="alert(1)"/> & co'
    table = ElementTree.fromstring(parts.by_category())
    assert next(table.iter("tbody"))[0][0].text == parts.images.categories[1] and not list(table.iter("img"))


def test_curves_of_any_loss_and_learning_metric_end_in_the_last_values_of_the_runs(document):
    texts = [image.get("alt") for image in document.iter("img")]
    for title, last in (("loss_any", "2.7"), ("learning/any", "0.3"), ("Spread of projections", "0.9")):
        assert f"{title}, last values: DetCon_B, FH regions {last}" in texts
    for title, last in (("total_loss", "1.2"), ("Box AP on the validation images", "7")):
        assert f"{title}, last values: random initialisation {last}, DetCon_B, FH regions {last}" in texts
    assert "random initialisation 14.1, DetCon_B, FH regions 21.4" in texts and "77.7" not in " ".join(texts)


def test_how_it_was_made_has_commands_times_and_settings_without_the_path_of_the_folder(quickstart, text):
    assert "# regions: 28 s python 'tools/generate_masks.py $OUTPUT/masks_fh'" in text and "2.0 minutes" in text
    for fact in ("depth 50", "iterations 4", "mask parameters fh scale=300", "160 iterations; 0.80 s per iteration", "subset 0.6"):
        assert fact in text, fact
    assert str(quickstart) not in text and re.search(r"DetCon_B, FH regions [01]\.\d{3} [01]\.\d{3}", text)


def test_the_tool_names_missing_files_and_the_tools_that_write_them(tmp_path, run_tool):
    done = run_tool("report.py", tmp_path)
    assert done.returncode == 2 and "make quickstart continues" in done.stderr
    for name, tool in (("views.png", "visualize_views.py"), ("model_final.pth", "train_net.py (pretraining)")):
        assert f"{name}, which tools/{tool} writes" in done.stderr
    for method in ("random", "detcon_b"):
        assert f"{tmp_path}/{method}/finetune/results.json, which tools/train_net.py (fine-tuning) writes" in done.stderr
