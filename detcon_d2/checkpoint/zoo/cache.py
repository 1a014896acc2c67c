"""The cache of the model zoo: one folder per entry, with the file as published, what was converted from it, and ``record.json``."""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from iopath.common.file_io import get_cache_dir

from detcon_d2.checkpoint.zoo.catalog import Entry
from detcon_d2.checkpoint.zoo.download import file_digest
from detcon_d2.io.atomic import atomic_file

CACHE_VARIABLE = "DETCON_D2_CACHE"
"""Environment variable: folder of the cache. Unset: ``detcon_d2`` in iopath's ($FVCORE_CACHE, or ~/.torch/iopath_cache)."""


class ChecksumError(ValueError):
    """A file is not the one that the zoo, its publisher or an earlier download names."""


@dataclass(frozen=True)
class CachedEntry:
    """An entry of the zoo and its folder in the cache."""

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

    def state(self) -> str:
        """``converted``, ``downloaded`` or "" for a table."""
        if self.weights(self.entry.branches[0]).is_file():
            return "converted"
        return "downloaded" if self.file.is_file() else ""

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

    def describe(self) -> dict[str, str]:
        """Everything known of the entry and of its place in the cache, by title; what is not known is left out."""
        values = {field.name: getattr(self.entry, field.name) for field in fields(Entry)}
        for result in values.pop("published") + values.pop("reproduced"):
            backend = f", {result.backend}" if result.backend else ""
            values[f"AP {result.schedule}, by {result.by}{backend}"] = f"box {result.box_ap}, mask {result.mask_ap}"
        values |= {"cached file": self.file}
        values |= {f"converted weights, {branch}": self.weights(branch) for branch in self.entry.branches}
        values |= {f"recorded {key}": value for key, value in self.read_record().items() if key != "converted"}
        return {key: str(value) for key, value in values.items() if value not in (None, "")}
