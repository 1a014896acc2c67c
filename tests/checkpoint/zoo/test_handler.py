"""``detcon://NAME``: downloaded once, checked, converted, cached; against a local server with a small checkpoint of ours."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from hashlib import md5, sha256

import numpy as np
import pytest
import torch

from detcon_d2 import add_detcon_config, d2
from detcon_d2.checkpoint import DetConCheckpointer, check_weights, load_checkpoint_file, read_metadata, resolve_entry
from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.checkpoint.zoo.catalog import ZOO, Entry
from detcon_d2.checkpoint.zoo.download import DownloadError
from detcon_d2.checkpoint.zoo.handler import CACHE_VARIABLE, MIRROR_VARIABLE, CachedEntry, ChecksumError
from tests.checkpoint.http_server import Site, serve
from tests.checkpoint.pretrained import rewrite
from tests.conftest import PATIENCE, REPO
from tests.detectors import NARROW

NAMES = ["entry.lock", "model_final.pth", "record.json", "tiny.pkl", "tiny.yaml"]


@pytest.fixture
def site(pretrained_b):
    with serve(Site(files={"/release/model_final.pth": pretrained_b.read_bytes()})) as server:
        yield server


@pytest.fixture
def tiny(site, tmp_path, monkeypatch) -> Entry:
    """An entry of the zoo on the local server, with a cache of its own."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    return register(monkeypatch, make_entry(f"{site.url}/release/model_final.pth"))


def make_entry(url: str) -> Entry:
    origin = {"source": "https://example.org", "paper": "https://example.org/paper", "licence": "MIT"}
    return Entry("tiny", url, **origin, method="DetCon_B", depth=50, epochs=2, branches=("online", "ema"))


def register(monkeypatch, entry: Entry, **changes: object) -> Entry:
    entry = replace(entry, **changes)
    monkeypatch.setitem(ZOO, entry.name, entry)
    return entry


def content(site) -> bytes:
    return site.files["/release/model_final.pth"]


def test_the_first_call_downloads_and_converts_and_the_second_does_nothing(tiny, site, tmp_path):
    weights = resolve_entry("tiny")
    assert weights == tmp_path / "tiny" / "tiny.pkl" and sorted(os.listdir(weights.parent)) == NAMES
    metadata = read_metadata(weights)
    assert metadata["encoder"] == "online" and metadata["source_sha256"] == sha256(content(site)).hexdigest()
    written = weights.stat().st_mtime_ns
    assert resolve_entry("detcon://tiny") == weights and weights.stat().st_mtime_ns == written
    assert len(site.requests) == 1


def test_model_weights_takes_the_name(tiny, site):
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    cfg.merge_from_file(str(resolve_entry("tiny").with_suffix(".yaml")))
    options = NARROW | {"MODEL.RESNETS.NORM": "BN", "MODEL.FPN.NORM": "BN", "MODEL.WEIGHTS": "detcon://tiny"}
    cfg.merge_from_list([item for pair in options.items() for item in pair])
    assert "The config agrees with it." in check_weights(cfg, cfg.MODEL.WEIGHTS)[0]
    model = d2.build_model(cfg)
    stored = load_checkpoint_file(CachedEntry.of(tiny).weights("online"))["model"]
    for checkpointer in (DetConCheckpointer, d2.DetectionCheckpointer):
        torch.nn.init.zeros_(model.backbone.bottom_up.stem.conv1.weight)
        checkpointer(model).resume_or_load(cfg.MODEL.WEIGHTS, resume=False)
        state = model.state_dict()
        assert all(torch.equal(state[key], torch.as_tensor(value)) for key, value in stored.items() if not key.endswith("tracked"))
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(ValueError, match=r"detcon://tiny:\n  INPUT.FORMAT is 'BGR'; expected 'RGB'"):
        check_weights(cfg, cfg.MODEL.WEIGHTS)


def test_the_converter_takes_the_name(tiny, tmp_path):
    convert("detcon://tiny", tmp_path / "other.pth")
    metadata = read_metadata(tmp_path / "other.pth")
    assert (metadata["licence"], metadata["source_url"], metadata["depth"]) == ("MIT", tiny.url, 50)
    stored, again = (load_checkpoint_file(path)["model"] for path in (CachedEntry.of(tiny).weights("online"), tmp_path / "other.pth"))
    assert all(torch.equal(torch.as_tensor(stored[key]), again[key]) for key in again) and stored.keys() == again.keys()


def test_the_path_manager_opens_the_weights_for_reading_only(tiny):
    with d2.PathManager.open("detcon://tiny", "rb") as file:
        assert file.read() == CachedEntry.of(tiny).weights("online").read_bytes()
    with pytest.raises(ValueError, match="can only be read"):
        d2.PathManager.open("detcon://tiny", "wb")


def test_the_other_encoder_has_a_name_and_shares_the_download(tiny, site, pretrained_b, tmp_path):
    def shift(data):
        data["model"]["target.encoder.stem.conv1.weight"] += 1

    site.files["/release/model_final.pth"] = rewrite(pretrained_b, tmp_path / "other.pth", shift).read_bytes()
    online, ema = resolve_entry("tiny"), resolve_entry("detcon://tiny/ema")
    assert ema.name == "tiny_ema.pkl" and read_metadata(ema)["encoder"] == "ema" and resolve_entry("tiny/online") == online
    stems = [load_checkpoint_file(path)["model"]["backbone.bottom_up.stem.conv1.weight"] for path in (online, ema)]
    assert np.allclose(stems[1] - stems[0], 1, atol=1e-5) and len(site.requests) == 1


def test_an_unknown_name_or_branch_lists_what_there_is(tiny):
    with pytest.raises(ValueError, match="No 'detcon_r50' in the model zoo; nearest: detcon_b_r50_in1k"):
        resolve_entry("detcon://detcon_r50")
    with pytest.raises(ValueError, match="tiny has no branch 'best'; expected online or ema"):
        resolve_entry("detcon://tiny/best")


def test_other_facts_convert_anew_without_another_download(tiny, site, monkeypatch):
    weights = resolve_entry("tiny")
    before = weights.stat().st_mtime_ns
    register(monkeypatch, tiny, licence="Apache-2.0")
    assert resolve_entry("tiny") == weights and weights.stat().st_mtime_ns > before and len(site.requests) == 1


def test_a_conversion_that_was_not_finished_is_made_again(tiny, site, monkeypatch):
    def stopped(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr("detcon_d2.checkpoint.zoo.handler.convert", stopped)
        resolve_entry("tiny")
    assert resolve_entry("tiny").is_file() and len(site.requests) == 1


@pytest.mark.parametrize("known", ["sha256", "sha256_prefix", "md5_prefix"])
def test_a_known_checksum_is_compared(tiny, site, monkeypatch, caplog, known):
    right = {"sha256": sha256(content(site)).hexdigest(), "md5_prefix": md5(content(site)).hexdigest()[:8]}
    right["sha256_prefix"] = right["sha256"][:8]
    wrong = "".join("0" if digit != "0" else "1" for digit in right[known])
    register(monkeypatch, tiny, **{known: wrong})
    with pytest.raises(ChecksumError) as error:
        resolve_entry("tiny")
    found = right["sha256" if known.startswith("sha256") else known]
    assert f" {found}" in str(error.value) and f"expected {wrong}" in str(error.value) and tiny.url in str(error.value)
    assert sorted(os.listdir(CachedEntry.of(tiny).folder)) == ["entry.lock", "model_final.pth.refused"]
    register(monkeypatch, tiny, **{known: right[known]})
    assert resolve_entry("tiny").is_file() and len(site.requests) == 2
    assert ("not published" in caplog.text) == (known == "md5_prefix")


def test_an_unknown_checksum_is_recorded_with_a_warning_and_compared_from_then_on(tiny, site, caplog):
    with caplog.at_level(logging.WARNING):
        weights = resolve_entry("tiny")
    where, digest = CachedEntry.of(tiny), sha256(content(site)).hexdigest()
    assert f"is not published. From now on it must be {digest}" in caplog.text
    record = json.loads(where.record.read_text())
    assert (record["sha256"], record["size"], record["url"]) == (digest, len(content(site)), tiny.url)
    where.file.unlink()
    weights.unlink()
    site.files["/release/model_final.pth"] += b"changed"
    with pytest.raises(ChecksumError, match=f"expected {digest}, recorded at first use in .*delete that file to accept another"):
        resolve_entry("tiny")
    assert not where.file.exists() and not weights.exists()


def test_a_download_that_fails_leaves_no_weights_and_names_the_place_for_a_file(tiny, site, pretrained_b):
    site.statuses = [404]
    with pytest.raises(DownloadError) as error:
        resolve_entry("tiny")
    assert "HTTP 404" in str(error.value) and str(CachedEntry.of(tiny).file) in str(error.value)
    assert os.listdir(CachedEntry.of(tiny).folder) == ["entry.lock"]
    CachedEntry.of(tiny).file.write_bytes(pretrained_b.read_bytes())
    assert resolve_entry("tiny").is_file() and len(site.requests) == 1


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_cache_that_is_served_is_a_mirror(tiny, site, tmp_path, monkeypatch, by):
    site.files = {"/mirror/tiny/model_final.pth": content(site)}
    mirror = f"{site.url}/mirror/"
    if by == "environment":
        monkeypatch.setenv(MIRROR_VARIABLE, mirror)
    weights = resolve_entry("tiny", cache=tmp_path / "other", mirror=mirror if by == "argument" else None)
    assert weights == tmp_path / "other" / "tiny" / "tiny.pkl" and site.requests == [("/mirror/tiny/model_final.pth", None)]


def test_without_a_variable_the_cache_is_in_that_of_iopath(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "fvcore"))
    assert CachedEntry.of(tiny).folder == tmp_path / "fvcore" / "detcon_d2" / "tiny"


OTHER_PROCESS = """
import sys
from detcon_d2 import add_detcon_config, d2
try:
    d2.PathManager.get_local_path("detcon://nothing_like_it")
except ValueError as error:
    print(error, flush=True)
from tests.checkpoint.zoo.test_handler import ZOO, make_entry
ZOO["tiny"] = make_entry(sys.argv[1])
print("ready", flush=True)
input()
print(d2.PathManager.get_local_path("detcon://tiny"))
"""


def test_two_processes_download_once_and_the_prefix_comes_with_the_config_keys(tiny, site, tmp_path):
    site.delay = 0.5
    command = [sys.executable, "-c", OTHER_PROCESS, tiny.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPO) as other:
        assert "No 'nothing_like_it' in the model zoo" in other.stdout.readline() and other.stdout.readline() == "ready\n"
        print(file=other.stdin, flush=True)
        here, there = resolve_entry("tiny"), other.communicate(timeout=PATIENCE)[0].strip()
    assert other.returncode == 0 and str(here) == there == str(tmp_path / "tiny" / "tiny.pkl") and len(site.requests) == 1
