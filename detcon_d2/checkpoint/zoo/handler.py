"""``detcon://NAME``: a public checkpoint by name, downloaded, checked and converted for Detectron2 once, then read from the cache.

Resolving gives a Detectron2 ``.pkl`` with metadata, so MODEL.WEIGHTS and the check at start-up treat it as any converted file. The YAML
that fits is next to it. Importing this module registers the prefix on the ``PathManager`` that Detectron2 uses.
"""

import json
import logging
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from iopath.common.file_io import PathHandler, file_lock, get_cache_dir

import detcon_d2
from detcon_d2 import d2
from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.checkpoint.zoo.catalog import PREFIX, Entry, find_entry
from detcon_d2.checkpoint.zoo.download import download, file_digest
from detcon_d2.io.atomic import atomic_file

CACHE_VARIABLE = "DETCON_D2_CACHE"
"""Environment variable: folder of the cache. Unset: ``detcon_d2`` in iopath's ($FVCORE_CACHE, or ~/.torch/iopath_cache)."""
MIRROR_VARIABLE = "DETCON_D2_ZOO_URL"
"""Environment variable: URL of a mirror with the files as <url>/<name>/<file>, the layout of a cache. Unset: the publishers."""

logger = logging.getLogger(__name__)


class ChecksumError(ValueError):
    """A file is not the one that the zoo, its publisher or an earlier download names."""


def resolve_entry(name: str, *, cache: str | Path | None = None, mirror: str | None = None, check: bool = False) -> Path:
    """The Detectron2 ``.pkl`` of an entry: from the cache, or downloaded, checked and converted now.

    Processes that ask for the same entry wait for the first one; the lock of a process that dies is free at once.

    Args:
        name: ``NAME`` or ``NAME/BRANCH``, with or without ``detcon://``.
        cache: folder; default see :data:`CACHE_VARIABLE`.
        mirror: see :data:`MIRROR_VARIABLE`, its default.
        check: compare features before and after the conversion.

    Raises:
        ValueError: no such entry or branch, or the converter's reason.
        ChecksumError: the file is another one; it was moved aside.
        DownloadError: see :func:`~detcon_d2.checkpoint.zoo.download.download`.
    """
    entry, branch = find_entry(name)
    cached = CachedEntry.of(entry, cache)
    weights, facts = cached.weights(branch), entry.facts()
    # What decides the content of a conversion besides the file: with other facts or another version, the file is converted again.
    made_from = sha256(json.dumps([entry.style, branch, facts, detcon_d2.__version__]).encode()).hexdigest()

    def is_converted() -> bool:
        return weights.is_file() and cached.read_record().get("converted", {}).get(branch) == made_from

    if is_converted():
        return weights
    with file_lock(str(cached.folder / "entry")):
        if not is_converted():
            cached.fetch(mirror)
            for line in convert(cached.file, weights, style=entry.style, branch=branch, facts=facts, overwrite=True, check=check):
                logger.info("%s", line)
            cached.add_to_record({"converted": cached.read_record().get("converted", {}) | {branch: made_from}})
    return weights


@dataclass(frozen=True)
class CachedEntry:
    """An entry of the zoo and its folder in the cache, with the published file, what was converted from it, and ``record.json``."""

    entry: Entry
    folder: Path

    @classmethod
    def of(cls, entry: Entry, cache: str | Path | None = None) -> "CachedEntry":
        """In ``cache`` (default: see :data:`CACHE_VARIABLE`). A folder that is given may be read-only once it is filled."""
        given = cache or os.environ.get(CACHE_VARIABLE)
        root = Path(given).expanduser() if given else Path(get_cache_dir()) / "detcon_d2"
        return cls(entry, root.absolute() / entry.name)

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

    def add_to_record(self, values: dict[str, Any]) -> None:
        """Replace these values of the record, atomically."""
        text = json.dumps(self.read_record() | values, indent=2)
        with atomic_file(self.record, sync=True) as file:
            file.write(text.encode())

    def check_file(self) -> str:
        """Compare the published file with every digest that is known, its publisher's and that of first use; returns its SHA-256.

        Raises:
            FileNotFoundError: it is not there.
            ChecksumError: with what was found and expected.
        """
        if not self.file.is_file():
            raise FileNotFoundError(f"{self.entry.name} is not in the cache: expected {self.file}.")
        entry, recorded = self.entry, self.read_record()
        expectations = (
            ("sha256", entry.sha256 or entry.sha256_prefix, "named by the zoo"),
            ("md5", entry.md5_prefix, "named by its publisher"),
            ("sha256", recorded.get("sha256"), f"recorded at first use in {self.record} (delete that file to accept another)"),
        )
        found = {name: file_digest(self.file, name) for name in ("sha256", *(["md5"] if entry.md5_prefix else []))}
        for algorithm, expected, origin in expectations:
            if expected and not found[algorithm].startswith(expected):
                raise ChecksumError(
                    f"{self.file} ({self.file.stat().st_size:,} bytes) is damaged or not what {entry.url} was: "
                    f"found {algorithm} {found[algorithm]}, expected {expected}, {origin}."
                )
        return found["sha256"]

    def fetch(self, mirror: str | None = None) -> None:
        """Put the published file in its place, check it and record its digest at first use; the caller holds the lock."""
        entry, base = self.entry, mirror or os.environ.get(MIRROR_VARIABLE)
        url = f"{base.rstrip('/')}/{entry.name}/{entry.file_name}" if base else entry.url
        if not self.file.is_file():
            logger.info("Downloading %s to %s", url, self.file)
            download(url, self.file, size=entry.size)
        try:
            digest = self.check_file()
        except ChecksumError as error:
            aside = self.file.with_name(f"{self.file.name}.refused")
            os.replace(self.file, aside)
            raise ChecksumError(f"{error} Moved to {aside}.") from error
        if "sha256" in self.read_record():
            return
        if not entry.sha256 and not entry.sha256_prefix:
            logger.warning("The SHA-256 of %s is not published. From now on it must be %s, as recorded in %s.", url, digest, self.record)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.add_to_record({"url": url, "sha256": digest, "size": self.file.stat().st_size, "first_use": now})


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
