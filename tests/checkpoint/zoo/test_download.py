"""A download is complete or not there, continues where it was cut, and an error names what is wrong."""

import os
import resource
import shutil
from types import SimpleNamespace

import pytest

from detcon_d2.checkpoint.zoo import download as module
from detcon_d2.checkpoint.zoo.download import DownloadError, download
from tests.checkpoint.http_server import Site, serve

BODY = bytes(range(256)) * 20_000  # 5 MB: several blocks


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(module, "_BACKOFF", 0.0)


@pytest.fixture
def site():
    with serve(Site(files={"/f.npy": BODY})) as server:
        yield server


def refused(site, path, **options) -> str:
    """The message of a download that fails and leaves no file."""
    with pytest.raises(DownloadError) as error:
        download(f"{site.url}/f.npy", path, **options)
    assert not path.exists() and f"{site.url}/f.npy" in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_the_whole_file_arrives_in_one_request_and_nothing_else_is_left(site, tmp_path):
    download(f"{site.url}/f.npy", tmp_path / "new" / "f.npy", size=len(BODY))
    assert (tmp_path / "new" / "f.npy").read_bytes() == BODY
    assert os.listdir(tmp_path / "new") == ["f.npy"] and site.requests == [("/f.npy", None)]


def test_a_cut_connection_is_continued_where_it_stopped(site, tmp_path):
    site.cuts = [3_000_000, 1_000_000]
    download(f"{site.url}/f.npy", tmp_path / "f.npy")
    assert (tmp_path / "f.npy").read_bytes() == BODY and os.listdir(tmp_path) == ["f.npy"]
    assert [wanted for _, wanted in site.requests] == [None, "bytes=3000000-", "bytes=4000000-"]


def cut_off(site, path, received=3_000_000) -> None:
    """Leave the beginning of the file as a process that gave up does."""
    site.cuts, site.statuses = [received], [200] + [503] * 6
    assert f"{received:,} bytes are kept" in refused(site, path)
    site.statuses = []
    site.requests.clear()


def test_a_later_call_continues_what_an_earlier_one_left(site, tmp_path):
    cut_off(site, tmp_path / "f.npy")
    assert (tmp_path / "f.npy.part").read_bytes() == BODY[:3_000_000]
    download(f"{site.url}/f.npy", tmp_path / "f.npy")
    assert (tmp_path / "f.npy").read_bytes() == BODY and [wanted for _, wanted in site.requests] == ["bytes=3000000-"]


@pytest.mark.parametrize("changed", [BODY[::-1] + b"!", BODY[::-1][:1000]], ids=["longer", "shorter"])
def test_a_file_that_changed_in_between_is_sent_from_the_start(site, tmp_path, changed):
    cut_off(site, tmp_path / "f.npy")
    site.files["/f.npy"] = changed
    download(f"{site.url}/f.npy", tmp_path / "f.npy")
    assert (tmp_path / "f.npy").read_bytes() == changed


def test_the_beginning_from_another_address_is_not_continued(site, tmp_path):
    cut_off(site, tmp_path / "f.npy")
    site.files["/mirror/f.npy"] = BODY[::-1]
    download(f"{site.url}/mirror/f.npy", tmp_path / "f.npy")
    assert (tmp_path / "f.npy").read_bytes() == BODY[::-1] and site.requests == [("/mirror/f.npy", None)]


@pytest.mark.parametrize("note", ["", "{", "{}"])
def test_a_beginning_of_unknown_origin_is_not_continued(site, tmp_path, note):
    (tmp_path / "f.npy.part").write_bytes(b"x" * 1000)
    (tmp_path / "f.npy.part.json").write_text(note)
    download(f"{site.url}/f.npy", tmp_path / "f.npy")
    assert (tmp_path / "f.npy").read_bytes() == BODY and site.requests == [("/f.npy", None)]


@pytest.mark.parametrize("lacks", ["ranges", "etag"])
def test_a_server_without_ranges_or_without_a_version_starts_again(site, tmp_path, lacks):
    setattr(site, lacks, False)
    site.cuts = [3_000_000]
    download(f"{site.url}/f.npy", tmp_path / "f.npy")
    assert (tmp_path / "f.npy").read_bytes() == BODY and len(site.requests) == 2


def test_what_a_server_without_a_version_sent_is_not_kept(site, tmp_path):
    site.etag, site.cuts, site.statuses = False, [3_000_000], [200] + [503] * 6
    assert "are kept" not in refused(site, tmp_path / "f.npy")
    site.statuses, site.files["/f.npy"] = [], BODY[::-1]
    download(f"{site.url}/f.npy", tmp_path / "f.npy")
    assert (tmp_path / "f.npy").read_bytes() == BODY[::-1] and site.requests[-1] == ("/f.npy", None)


def test_a_server_without_ranges_that_always_cuts_is_given_up(site, tmp_path):
    site.ranges, site.cuts = False, [3_000_000] * 20
    assert f"cut after 3,000,000 of {len(BODY):,} bytes" in refused(site, tmp_path / "f.npy")
    assert len(site.requests) == module._ATTEMPTS + 1


def test_progress_counts_however_often_the_connection_is_cut(site, tmp_path):
    site.cuts = [400_000] * 20
    download(f"{site.url}/f.npy", tmp_path / "f.npy")
    assert (tmp_path / "f.npy").read_bytes() == BODY and len(site.requests) == 13


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_passing_error_is_tried_again(site, tmp_path, status):
    site.statuses = [status, status]
    download(f"{site.url}/f.npy", tmp_path / "f.npy")
    assert (tmp_path / "f.npy").read_bytes() == BODY and len(site.requests) == 3


@pytest.mark.parametrize(("status", "requests"), [(401, 1), (403, 1), (404, 1), (410, 1), (503, module._ATTEMPTS)])
def test_a_final_error_is_not_and_a_lasting_one_is_given_up(site, tmp_path, status, requests):
    site.statuses = [status] * 20
    assert f"HTTP {status}" in refused(site, tmp_path / "f.npy") and len(site.requests) == requests


def test_a_host_that_does_not_answer_is_named(tmp_path):
    with serve(Site()) as gone:
        pass
    assert "Connection refused" in refused(gone, tmp_path / "f.npy")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.org/f", "f.npy"])
def test_only_http_is_fetched(tmp_path, url):
    with pytest.raises(DownloadError, match="no http or https address"):
        download(url, tmp_path / "f")


def test_missing_space_is_reported_before_anything_is_written(site, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=len(BODY) - 1))
    message = refused(site, tmp_path / "f.npy")
    assert f"no space: {len(BODY):,} bytes needed, {len(BODY) - 1:,} free in {tmp_path}" in message
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("difference", [-1, 1])
def test_another_announced_size_than_known_is_refused(site, tmp_path, difference):
    assert f"announces {len(BODY):,} bytes; expected" in refused(site, tmp_path / "f.npy", size=len(BODY) + difference)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("difference", [-1, 0, 1])
def test_another_size_than_known_is_refused_when_it_is_not_announced(site, tmp_path, difference):
    site.announce_length = False
    if not difference:
        download(f"{site.url}/f.npy", tmp_path / "f.npy", size=len(BODY))
        assert (tmp_path / "f.npy").read_bytes() == BODY
        return
    sent = f"{len(BODY):,} bytes{' and more' if difference < 0 else ''}; expected {len(BODY) + difference:,}"
    assert f"the server sent {sent}" in refused(site, tmp_path / "f.npy", size=len(BODY) + difference)
    assert os.listdir(tmp_path) == []


def test_less_than_announced_is_a_cut_connection(site, tmp_path):
    site.announced, site.ranges = len(BODY) + 10, False
    assert f"cut after {len(BODY):,} of {len(BODY) + 10:,} bytes" in refused(site, tmp_path / "f.npy")


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_in_place_of_the_file_is_refused(site, tmp_path, content_type):
    site.content_type, site.files["/f.npy"] = content_type, b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
    assert "a web page in place of the file" in refused(site, tmp_path / "f.npy")
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_is_named_and_not_tried_again(site, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
    try:
        assert f"cannot write {tmp_path / 'f.npy.part'}: File too large" in refused(site, tmp_path / "f.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(site.requests) == 1
