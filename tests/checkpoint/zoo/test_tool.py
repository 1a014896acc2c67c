"""The command line of tools/zoo.py, run in this process; the table of entries and MODEL_ZOO.md."""

from dataclasses import replace

import pytest

from detcon_d2.checkpoint.convert.spec import ASSUMED
from detcon_d2.checkpoint.convert.styles import STYLES
from detcon_d2.checkpoint.zoo.catalog import ZOO, find_entry, markdown_table
from detcon_d2.checkpoint.zoo.handler import MIRROR_VARIABLE, CachedEntry
from tests.checkpoint.http_server import Site, serve
from tests.checkpoint.zoo.test_handler import make_entry
from tests.conftest import REPO


@pytest.fixture
def site(pretrained_b, tmp_path, monkeypatch):
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    with serve(Site(files={"/model_final.pth": pretrained_b.read_bytes()})) as server:
        monkeypatch.setitem(ZOO, "tiny", make_entry(f"{server.url}/model_final.pth"))
        yield server


@pytest.fixture
def tool(tmp_path, run_tool):
    """Runs ``zoo.py --cache <tmp_path>/cache <arguments>``; returns exit status, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        done = run_tool("zoo.py", "--cache", tmp_path / "cache", *arguments)
        return done.returncode, done.stdout, done.stderr

    return run


def row(table: str) -> list[str]:
    return next(line for line in table.splitlines() if line.startswith("tiny ")).split()


def test_from_the_list_to_checked_weights(tool, site, tmp_path):
    assert row(tool("list")[1]) == ["tiny", "DetCon_B", "R-50", "2"]
    status, out, _ = tool("download", "tiny", "tiny/ema")
    folder = tmp_path / "cache" / "tiny"
    assert status == 0 and f"weights  {folder / 'tiny.pkl'}\nconfig   {folder / 'tiny.yaml'}\n" in out and f"{folder}/tiny_ema.pkl" in out
    assert row(tool("list")[1])[-1] == "converted"
    assert tool("verify")[1].startswith("tiny: ok, sha256 ") and tool("verify", "tiny")[0] == 0


def test_downloading_compares_features_unless_the_user_switches_it_off(tool, site, caplog):
    with caplog.at_level("INFO"):
        assert tool("download", "tiny")[0] == 0
        assert "features before and after conversion agree" in caplog.text
        caplog.clear()
        assert tool("download", "tiny/ema", "--no-check")[0] == 0
        assert "features: not compared" in caplog.text


def test_verify_finds_what_changed_and_what_is_missing(tool, site, tmp_path):
    assert tool("verify")[:2] == (0, "")
    status, out, _ = tool("verify", "tiny")
    assert status == 1 and "WRONG. tiny is not in the cache" in out
    tool("download", "tiny", "--no-check")
    with open(tmp_path / "cache" / "tiny" / "model_final.pth", "ab") as file:
        file.write(b"x")
    status, out, _ = tool("verify")
    assert status == 1 and "is damaged or not what" in out


def test_show_names_source_checksum_numbers_and_places(tool, tmp_path):
    status, out, _ = tool("show", "detcon_b_r50_in1k")
    assert status == 0 and str(tmp_path / "cache" / "detcon_b_r50_in1k" / "resnet50_detcon_b_imagenet_1k.npy") in out
    for text in ("dm-detcon", "Apache-2.0", "haiku", "same", "box 42.7, mask 38.2", "box 42.2, mask 38.1"):
        assert text in out
    assert "None" not in out


def test_errors_are_one_message_with_status_2(tool, site):
    status, _, err = tool("show", "detcon_r50")
    assert status == 2 and err.startswith("zoo.py: No 'detcon_r50' in the model zoo; nearest: detcon_b_r50_in1k")
    site.statuses = [403]
    status, _, err = tool("download", "tiny")
    assert status == 2 and "HTTP 403" in err and "Traceback" not in err


def test_the_table_in_model_zoo_md_is_that_of_the_code(tool):
    printed = tool("list", "--markdown")[1]
    assert printed == "\n".join(markdown_table(ZOO.values())) + "\n"
    assert printed in (REPO / "MODEL_ZOO.md").read_text()


@pytest.mark.parametrize("name", sorted(ZOO))
def test_an_entry_names_its_source_and_what_it_expects(name):
    entry, branch = find_entry(name)
    assert entry.name == name and all(url.startswith("https://") for url in (entry.url, entry.source, entry.paper)) and entry.licence
    assert entry.depth in (50, 200) and entry.padding in ("same", "symmetric") and branch == "online"
    assert all(20 < result.mask_ap < result.box_ap < 60 and result.by and result.schedule in ("1x", "2x") for result in entry.published)
    assert all(result.backend for result in entry.reproduced)
    digests = (entry.sha256, entry.sha256_prefix, entry.md5_prefix)
    assert all(set(digest) <= set("0123456789abcdef") for digest in digests if digest)
    assert entry.style is None or entry.style in STYLES
    facts = entry.facts()
    assert facts.keys() >= (ASSUMED.keys() - {"norm"}) and None not in facts.values()
    assert all(0 <= value <= 255 for value in facts["pixel_mean"] + facts["pixel_std"]) and min(facts["pixel_std"]) > 1


def test_the_facts_of_an_entry_leave_out_what_is_not_known():
    entry = make_entry("https://example.org/f.pth")
    assert entry.facts()["epochs"] == 2 and "epochs" not in replace(entry, epochs=None).facts()
    assert CachedEntry.of(entry, "/c").file.name == entry.file_name == "f.pth"
