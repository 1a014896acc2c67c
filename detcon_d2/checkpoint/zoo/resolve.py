"""``detcon://NAME``: a public checkpoint by name, downloaded, checked and converted for Detectron2 once, then read from the cache.

Resolving gives a Detectron2 ``.pkl`` with metadata, so MODEL.WEIGHTS and the start-up check treat it as any converted file; the YAML that
fits lies beside it. Importing this module registers the prefix on the ``PathManager`` that Detectron2 uses.
"""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from iopath.common.file_io import PathHandler, file_lock, get_cache_dir

import detcon_d2
from detcon_d2 import d2
from detcon_d2.checkpoint.convert.conversion import Verify, convert
from detcon_d2.checkpoint.zoo.download import download, file_digest
from detcon_d2.checkpoint.zoo.entries import Entry, find_entry
from detcon_d2.io.atomic import atomic_file

PREFIX = "detcon://"
CACHE_VARIABLE = "DETCON_D2_CACHE"
"""Environment variable: folder of the cache. Unset: ``detcon_d2`` in iopath's ($FVCORE_CACHE, or ~/.torch/iopath_cache)."""
MIRROR_VARIABLE = "DETCON_D2_ZOO_URL"
"""Environment variable: URL of a mirror with the files as <url>/<name>/<file>, which is how a cache lies on disk. Unset: the publishers."""

logger = logging.getLogger(__name__)


class ChecksumError(ValueError):
    """A file is not the one that the zoo, its publisher or an earlier download names."""


@dataclass(frozen=True)
class Place:
    """Where an entry lies in the cache: one folder, with the file as published, what was converted from it, and ``record.json``."""

    entry: Entry
    folder: Path

    @property
    def file(self) -> Path:
        """The file as published. One that was downloaded by hand may be put here."""
        return self.folder / self.entry.file_name

    @property
    def record(self) -> Path:
        """JSON: digest and size of the file at first use, and from what the weights were converted."""
        return self.folder / "record.json"

    def weights(self, branch: str) -> Path:
        """The converted ``.pkl``; its YAML has the same stem."""
        suffix = "" if branch == self.entry.branches[0] else f"_{branch}"
        return self.folder / f"{self.entry.name}{suffix}.pkl"

    def read_record(self) -> dict[str, Any]:
        """{} where nothing has been recorded yet."""
        return json.loads(self.record.read_text()) if self.record.is_file() else {}

    def write_record(self, record: dict[str, Any]) -> None:
        """Atomically."""
        with atomic_file(self.record, sync=True) as file:
            file.write(json.dumps(record, indent=2).encode())


def place(entry: Entry, cache: str | Path | None = None) -> Place:
    """The entry's place in ``cache`` (default: see :data:`CACHE_VARIABLE`). A folder that is given may be read-only once it is filled."""
    given = cache or os.environ.get(CACHE_VARIABLE)
    root = Path(given).expanduser() if given else Path(get_cache_dir()) / "detcon_d2"
    return Place(entry, root.absolute() / entry.name)


def resolve_entry(
    name: str,
    *,
    cache: str | Path | None = None,
    mirror: str | None = None,
    progress: bool = True,
    converter: Callable[..., list[str]] = convert,
    verify: Verify | None = None,
) -> Path:
    """The Detectron2 ``.pkl`` of an entry: from the cache, or downloaded, checked and converted now.

    Processes that ask for the same entry wait for the first one; the lock of one that dies is free at once.

    Args:
        name: ``NAME`` or ``NAME/BRANCH``, with or without ``detcon://``.
        cache: folder; default see :data:`CACHE_VARIABLE`.
        mirror: see :data:`MIRROR_VARIABLE`, its default.
        progress: draw a bar while downloading, on a terminal.
        converter: :func:`detcon_d2.checkpoint.convert.conversion`.
        verify: its numerical check.

    Raises:
        ValueError: no such entry or branch, or the converter's reason.
        ChecksumError: the file is another one; it was moved aside.
        DownloadError: with the reason, the URL, and where to put a file that was downloaded by hand.
    """
    entry, branch = parse(name)
    where = place(entry, cache)
    weights, made_from = where.weights(branch), _conversion_digest(entry, branch)
    if _is_converted(where, branch, made_from):
        return weights
    with file_lock(str(where.folder / "entry")):
        if _is_converted(where, branch, made_from):
            return weights
        _fetch(where, mirror, progress)
        options = {"style": entry.style, "branch": branch, "facts": entry.facts(), "overwrite": True, "verify": verify}
        for line in converter(where.file, weights, **options):
            logger.info("%s", line)
        record = where.read_record()
        where.write_record(record | {"converted": record.get("converted", {}) | {branch: made_from}})
    return weights


def parse(name: str) -> tuple[Entry, str]:
    """Entry and branch of ``[detcon://]NAME[/BRANCH]``; ValueError with what there is."""
    name, _, branch = name.removeprefix(PREFIX).partition("/")
    entry = find_entry(name)
    if branch and branch not in entry.branches:
        raise ValueError(f"{entry.name} has no branch {branch!r}; expected {' or '.join(entry.branches)} ({PREFIX}{entry.name}/BRANCH).")
    return entry, branch or entry.branches[0]


def check_file(where: Place) -> str:
    """Compare the published file with every digest that is known, its publisher's and that of first use; returns its SHA-256.

    Raises:
        ChecksumError: with what was found and expected.
    """
    entry, recorded = where.entry, where.read_record()
    found = {"sha256": file_digest(where.file, "sha256")}
    expectations = (
        ("sha256", entry.sha256 or entry.sha256_prefix, "named by the zoo"),
        ("md5", entry.md5_prefix, "named by its publisher"),
        ("sha256", recorded.get("sha256"), f"recorded at first use in {where.record} (delete that file to accept another)"),
    )
    for algorithm, expected, origin in expectations:
        if not expected:
            continue
        if algorithm not in found:
            found[algorithm] = file_digest(where.file, algorithm)
        if not found[algorithm].startswith(expected):
            raise ChecksumError(
                f"{where.file} ({where.file.stat().st_size:,} bytes) is damaged or not what {entry.url} was: "
                f"found {algorithm} {found[algorithm]}, expected {expected}, {origin}."
            )
    return found["sha256"]


def cached_state(where: Place) -> str:
    """``converted``, ``downloaded`` or "" for a table."""
    if where.weights(where.entry.branches[0]).is_file():
        return "converted"
    return "downloaded" if where.file.is_file() else ""


def verify_cached(where: Place) -> str:
    """One line on a file in the cache that is as it should be.

    Raises:
        FileNotFoundError: it is not there.
        ChecksumError: it is another one.
    """
    if not where.file.is_file():
        raise FileNotFoundError(f"{where.entry.name} is not in the cache: expected {where.file}.")
    return f"{where.entry.name}: ok, sha256 {check_file(where)}"


def describe(where: Place) -> dict[str, str]:
    """Everything known of an entry and of its place in the cache, by title; what is not known is left out."""
    values = {field.name: getattr(where.entry, field.name) for field in fields(Entry)}
    for result in values.pop("published") + values.pop("reproduced"):
        backend = f", {result.backend}" if result.backend else ""
        values[f"AP {result.schedule}, by {result.by}{backend}"] = f"box {result.box_ap}, mask {result.mask_ap}"
    values |= {"cached file": where.file}
    values |= {f"converted weights, {branch}": where.weights(branch) for branch in where.entry.branches}
    values |= {f"recorded {key}": value for key, value in where.read_record().items() if key != "converted"}
    return {key: str(value) for key, value in values.items() if value not in (None, "")}


class ZooHandler(PathHandler):
    """Makes ``detcon://NAME`` a file name for everything that goes through a PathManager."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        return str(resolve_entry(path))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        self._check_kwargs(kwargs)
        if mode not in ("r", "rb"):
            raise ValueError(f"{path} can only be read, not opened with mode {mode!r}.")
        return open(self._get_local_path(path), mode, buffering)


d2.PathManager.register_handler(ZooHandler())


def _fetch(where: Place, mirror: str | None, progress: bool) -> None:
    """The published file in its place and checked; the caller holds the lock."""
    entry, base = where.entry, mirror or os.environ.get(MIRROR_VARIABLE)
    url = f"{base.rstrip('/')}/{entry.name}/{entry.file_name}" if base else entry.url
    if not where.file.is_file():
        logger.info("Downloading %s to %s", url, where.file)
        download(url, where.file, size=entry.size, progress=progress)
    try:
        digest = check_file(where)
    except ChecksumError as error:
        aside = where.file.with_name(f"{where.file.name}.refused")
        os.replace(where.file, aside)
        raise ChecksumError(f"{error} Moved to {aside}.") from error
    record = where.read_record()
    if "sha256" not in record:
        if not entry.sha256 and not entry.sha256_prefix:
            logger.warning("The SHA-256 of %s is not published. From now on it must be %s, as recorded in %s.", url, digest, where.record)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        where.write_record(record | {"url": url, "sha256": digest, "size": where.file.stat().st_size, "first_use": now})


def _is_converted(where: Place, branch: str, made_from: str) -> bool:
    return where.weights(branch).is_file() and where.read_record().get("converted", {}).get(branch) == made_from


def _conversion_digest(entry: Entry, branch: str) -> str:
    """Of what decides a conversion's content beside the file: other facts or another version convert anew."""
    return sha256(json.dumps([entry.style, branch, entry.facts(), detcon_d2.__version__]).encode()).hexdigest()
