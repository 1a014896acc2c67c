"""The report is one file that parses, needs nothing beside it, and says what the results say."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from detcon_d2.quickstart.report.inputs import quickstart_arms
from detcon_d2.quickstart.report.page import number, page, signed
from detcon_d2.quickstart.report.report import write_report
from tests.quickstart.fake import BOX_AP

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects text and addresses, and fails on tags that are not closed in order."""

    def __init__(self, document: str):
        super().__init__(convert_charrefs=True)
        self.open, self.addresses, self.texts, self.tags = [], [], [], []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "xlink:href", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture(scope="module")
def document(quickstart: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("report") / "new" / "report.html"
    write_report(quickstart, quickstart_arms(quickstart), output)
    return output.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(document: str) -> Page:
    return Page(document)


def test_every_tag_is_closed_in_order(parsed):
    assert parsed.open == []


def test_nothing_is_loaded_from_outside(document, parsed):
    assert parsed.addresses
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in parsed.addresses)
    assert "script" not in parsed.tags and "link" not in parsed.tags
    style = re.search(r"<style>(.*?)</style>", document, re.S).group(1)
    assert "url(" not in style and "@import" not in style


def test_links_lead_to_sections_that_exist(document, parsed):
    anchors = [address[1:] for address in parsed.addresses if address.startswith("#")]
    assert len(anchors) == 8
    assert all(f'id="{anchor}"' in document for anchor in anchors)


def test_the_headline_is_the_gain_of_the_pretrained_arm(parsed):
    gain = f"+{BOX_AP['detcon_b'] - BOX_AP['random']:.1f} AP DetCon_B over random initialisation"
    assert gain in re.sub(r" +", " ", parsed.text)


def test_the_table_holds_every_arms_figures_and_a_dash_for_missing_ones(parsed):
    assert "DetCon_B 21.4 42.7 – 18.4 30.0 12.0" in parsed.text
    assert "random initialisation 14.1 28.1 – 11.1 30.0 12.0" in parsed.text
    assert re.search(r"disc \d+ 22\.4 15\.1 – –", parsed.text)


def test_limits_of_the_claim_are_said(parsed):
    assert "transfer within a small world" in parsed.text
    assert "It does not show AP on COCO" in parsed.text
    assert "with probability 0.8" in parsed.text


def test_curves_end_in_the_last_values_of_the_runs(parsed):
    for value in ("2.7", "0.3", "0.9", "1.2"):
        assert f" {value} " in parsed.text


def test_how_it_was_made_tells_commands_times_and_settings_without_the_folders_path(quickstart, parsed):
    assert "# regions: 28 s python 'tools/generate_masks.py $OUTPUT/masks_fh'" in parsed.text
    assert "2.0 minutes" in parsed.text
    for fact in ("depth 50", "iterations 4", "seed 0", "mask parameters fh scale=300", "160 iterations; 0.80 s each", "subset 0.6"):
        assert fact in parsed.text, fact
    assert str(quickstart) not in parsed.text


def test_detections_and_similarity_maps_are_captioned_with_numbers(parsed):
    assert re.search(r"random initialisation: \d of \d right", parsed.text)
    assert re.search(r"untrained: cosine -?\d\.\d\d to \d\.\d\d", parsed.text)
    assert re.search(r"DetCon_B [01]\.\d{3} [01]\.\d{3}", parsed.text)


def test_a_loss_of_ap_is_told_as_one(quickstart, tmp_path):
    detcon, random = quickstart_arms(quickstart)
    swapped = [replace(detcon, finetune=random.finetune), replace(random, finetune=detcon.finetune)]
    write_report(quickstart, swapped, tmp_path / "report.html", title="a < b")
    document = (tmp_path / "report.html").read_text()
    assert '<span class="down">−7.3</span> AP' in document
    assert "<title>a &lt; b</title>" in document


def test_without_a_pretrained_arm_the_baseline_stands_alone(quickstart, tmp_path):
    write_report(quickstart, quickstart_arms(quickstart)[1:], tmp_path / "report.html")
    parsed = Page((tmp_path / "report.html").read_text())
    assert "Region similarity" not in parsed.text and "14.1" in parsed.text


def test_several_evaluations_during_fine_tuning_are_drawn(quickstart, tmp_path):
    shutil.copytree(quickstart / "random", tmp_path / "random")
    random = replace(quickstart_arms(quickstart)[1], finetune=tmp_path / "random/finetune")
    with (random.finetune / "metrics.json").open("a") as file:
        file.writelines(f"\n{json.dumps({'iteration': i, 'bbox/AP': ap})}" for i, ap in ((80, 7.77), (160, 9.99)))
    write_report(quickstart, [random], tmp_path / "report.html")
    assert "Box AP on the validation images 7 8 9 10 80" in Page((tmp_path / "report.html").read_text()).text


def test_figures_are_written_with_one_decimal_and_a_sign_where_they_are_differences():
    assert (number(3.14), number(float("nan"))) == ("3.1", "–")
    assert signed(2.0) == '<span class="up">+2.0</span>'
    assert signed(float("nan")) == "–"


def test_plain_text_of_the_page_is_escaped():
    assert "<h1>a &lt;b&gt;</h1>" in page("a <b>", "", [("x & y", "<p>z</p>")])


def test_the_tool_writes_the_report_where_it_is_told(quickstart, tmp_path, run_tool):
    done = run_tool("report.py", quickstart, "--output", tmp_path / "own.html")
    assert (tmp_path / "own.html").is_file()
    assert f"{tmp_path / 'own.html'}: open it" in done.stdout
    assert not (quickstart / "report.html").exists()


def test_the_tool_says_what_is_missing(tmp_path, run_tool):
    done = run_tool("report.py", tmp_path)
    assert done.returncode == 2 and "views.png, which tools/visualize_views.py writes" in done.stderr
