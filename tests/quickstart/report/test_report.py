"""The report is one file that parses and needs no other file, and its numbers are those of the runs."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from detcon_d2.quickstart.quickstart import quickstart_runs
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
        assert self.open == []

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
    write_report(quickstart, quickstart_runs(quickstart), output)
    return output.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(document: str) -> str:
    return Page(document).text


def test_nothing_is_loaded_from_outside_and_links_lead_to_sections(document):
    parsed = Page(document)
    images = [address for address in parsed.addresses if address.startswith("data:image/jpeg;base64,")]
    anchors = [address[1:] for address in parsed.addresses if address.startswith("#")]
    assert len(images) > 20 and len(anchors) == 8 and len(images) + len(anchors) == len(parsed.addresses)
    assert all(f'id="{anchor}"' in document for anchor in anchors)
    assert "script" not in parsed.tags and "link" not in parsed.tags
    style = re.search(r"<style>(.*?)</style>", document, re.S).group(1)
    assert "url(" not in style and "@import" not in style


def test_tables_hold_the_metrics_of_every_run_their_differences_and_a_dash_for_missing_ones(text):
    assert f"+{BOX_AP['detcon_b'] - BOX_AP['random']:.1f} AP DetCon_B, FH regions compared with random initialisation" in text
    assert "random initialisation 14.1 28.1 – 11.1 30.0 12.0" in text
    assert "DetCon_B, FH regions 21.4 42.7 – 18.4 30.0 12.0" in text
    assert "gain of DetCon_B, FH regions +7.3 +14.6 – +7.3 +0.0 +0.0" in text
    assert re.search(r"disc \d+ 15\.1 22\.4 – –", text)


def test_curves_of_any_loss_and_learning_metric_end_in_the_last_values_of_the_runs(text):
    for title, last in (("loss_any", "2.7"), ("learning/any", "0.3"), ("Spread of projections", "0.9"), ("total_loss", "1.2")):
        assert re.search(rf" {title} [\d. ]+[\w, ]+ {last} ", text), title
    assert re.search(r"Box AP on the validation images [\d. ]+[\w, ]+ 7 ", text) and "77.7" not in text


def test_how_it_was_made_has_commands_times_and_settings_without_the_path_of_the_folder(quickstart, text):
    assert "# regions: 28 s python 'tools/generate_masks.py $OUTPUT/masks_fh'" in text and "2.0 minutes" in text
    for fact in (
        "depth 50",
        "iterations 4",
        "seed 0",
        "mask parameters fh scale=300",
        "160 iterations; 0.80 s per iteration",
        "subset 0.6",
    ):
        assert fact in text, fact
    assert str(quickstart) not in text


def test_limits_of_the_claim_are_stated(text):
    assert "transfer within a small data set" in text and "It does not measure AP on COCO" in text and "with probability 0.8" in text


def test_detections_and_similarity_maps_are_captioned_with_numbers(text):
    assert re.search(r"random initialisation: \d of \d correct", text)
    assert re.search(r"untrained: cosine -?\d\.\d\d to \d\.\d\d", text)
    assert re.search(r"DetCon_B, FH regions [01]\.\d{3} [01]\.\d{3}", text)


def test_the_tool_writes_the_report_to_the_given_file(quickstart, tmp_path, run_tool):
    done = run_tool("report.py", quickstart, "--output", tmp_path / "own.html")
    assert (tmp_path / "own.html").is_file() and f"{tmp_path / 'own.html'}: open it" in done.stdout
    assert not (quickstart / "report.html").exists()


def test_the_tool_names_missing_files_and_the_tools_that_write_them(tmp_path, run_tool):
    done = run_tool("report.py", tmp_path)
    assert done.returncode == 2 and "make quickstart continues" in done.stderr
    for name, tool in (("views.png", "visualize_views.py"), ("model_final.pth", "train_net.py (pretraining)")):
        assert f"{name}, which tools/{tool} writes" in done.stderr
    for method in ("random", "detcon_b"):
        assert f"{tmp_path}/{method}/finetune/results.json, which tools/train_net.py (fine-tuning) writes" in done.stderr
