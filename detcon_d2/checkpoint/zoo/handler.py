"""``detcon://NAME``: a public checkpoint by name, downloaded, checked and converted for Detectron2 once, then read from the cache.

Resolving gives a Detectron2 ``.pkl`` with metadata, so MODEL.WEIGHTS and the check at start-up treat it as any converted file. The YAML
that fits is next to it. Importing this module registers the prefix on the ``PathManager`` that Detectron2 uses.
"""

import json
import logging
import os
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from iopath.common.file_io import PathHandler, file_lock

import detcon_d2
from detcon_d2 import d2
from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.checkpoint.zoo.cache import CachedEntry, ChecksumError
from detcon_d2.checkpoint.zoo.catalog import Entry, find_entry
from detcon_d2.checkpoint.zoo.download import download

PREFIX = "detcon://"
MIRROR_VARIABLE = "DETCON_D2_ZOO_URL"
"""Environment variable: URL of a mirror with the files as <url>/<name>/<file>, the layout of a cache. Unset: the publishers."""

logger = logging.getLogger(__name__)


def resolve_entry(
    name: str, *, cache: str | Path | None = None, mirror: str | None = None, progress: bool = True, check: bool = False
) -> Path:
    """The Detectron2 ``.pkl`` of an entry: from the cache, or downloaded, checked and converted now.

    Processes that ask for the same entry wait for the first one; the lock of a process that dies is free at once.

    Args:
        name: ``NAME`` or ``NAME/BRANCH``, with or without ``detcon://``.
        cache: folder; default see :data:`~detcon_d2.checkpoint.zoo.cache.CACHE_VARIABLE`.
        mirror: see :data:`MIRROR_VARIABLE`, its default.
        progress: draw a bar while downloading, on a terminal.
        check: compare features before and after the conversion.

    Raises:
        ValueError: no such entry or branch, or the converter's reason.
        ChecksumError: the file is another one; it was moved aside.
        DownloadError: with the reason, the URL, and where to put a file that was downloaded by hand.
    """
    entry, branch = parse(name)
    cached = CachedEntry.of(entry, cache)
    weights, made_from = cached.weights(branch), _conversion_digest(entry, branch)

    def is_converted() -> bool:
        return weights.is_file() and cached.read_record().get("converted", {}).get(branch) == made_from

    if is_converted():
        return weights
    with file_lock(str(cached.folder / "entry")):
        if is_converted():
            return weights
        _fetch(cached, mirror, progress)
        for line in convert(cached.file, weights, style=entry.style, branch=branch, facts=entry.facts(), overwrite=True, check=check):
            logger.info("%s", line)
        cached.add_to_record({"converted": cached.read_record().get("converted", {}) | {branch: made_from}})
    return weights


def parse(name: str) -> tuple[Entry, str]:
    """Entry and branch of ``[detcon://]NAME[/BRANCH]``; ValueError with what there is."""
    name, _, branch = name.removeprefix(PREFIX).partition("/")
    entry = find_entry(name)
    if branch and branch not in entry.branches:
        raise ValueError(f"{entry.name} has no branch {branch!r}; expected {' or '.join(entry.branches)} ({PREFIX}{entry.name}/BRANCH).")
    return entry, branch or entry.branches[0]


class ZooHandler(PathHandler):
    """Makes ``detcon://NAME`` a file name for everything that uses a PathManager."""

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


def _fetch(cached: CachedEntry, mirror: str | None, progress: bool) -> None:
    """Put the published file in its place and check it; the caller holds the lock."""
    entry, base = cached.entry, mirror or os.environ.get(MIRROR_VARIABLE)
    url = f"{base.rstrip('/')}/{entry.name}/{entry.file_name}" if base else entry.url
    if not cached.file.is_file():
        logger.info("Downloading %s to %s", url, cached.file)
        download(url, cached.file, size=entry.size, progress=progress)
    try:
        digest = cached.check_file()
    except ChecksumError as error:
        aside = cached.file.with_name(f"{cached.file.name}.refused")
        os.replace(cached.file, aside)
        raise ChecksumError(f"{error} Moved to {aside}.") from error
    if "sha256" in cached.read_record():
        return
    if not entry.sha256 and not entry.sha256_prefix:
        logger.warning("The SHA-256 of %s is not published. From now on it must be %s, as recorded in %s.", url, digest, cached.record)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    cached.add_to_record({"url": url, "sha256": digest, "size": cached.file.stat().st_size, "first_use": now})


def _conversion_digest(entry: Entry, branch: str) -> str:
    """Of what decides the content of a conversion besides the file: with other facts or another version, the file is converted again."""
    return sha256(json.dumps([entry.style, branch, entry.facts(), detcon_d2.__version__]).encode()).hexdigest()
