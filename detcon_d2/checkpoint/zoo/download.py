"""One large file over HTTP: a cut transfer continues where it stopped, and the file appears complete or not at all.

iopath, fvcore and torch.hub also download, but none of them continues a cut transfer.
"""

import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from tqdm import tqdm

from detcon_d2.io.atomic import atomic_file

# Attempts in a row without new bytes, and the pause in seconds before the second of them; it doubles from then on.
_ATTEMPTS = 5
_BACKOFF = 1.0
_TIMEOUT = 30.0
_CHUNK = 1 << 20
# Errors that may disappear with time; after any other status there is no further attempt.
_PASSING_STATUS = (408, 429, 500, 502, 503, 504)
_PASSING_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml|head|body)", re.IGNORECASE)


class DownloadError(OSError):
    """A file cannot be downloaded from its URL; the message gives the reason and the place for a file downloaded by hand."""


def download(url: str, path: str | Path, *, size: int | None = None, progress: bool = True) -> None:
    """Download ``url`` to ``path``, continuing ``path.part`` where an earlier call left one.

    A continued file must be the same one: the server's ETag or date is sent with If-Range, and a server that does not support ranges, or
    that has another file by now, sends it from the start. A proxy is taken from the usual environment variables. The caller must ensure
    that only one process at a time downloads to ``path``.

    Args:
        url: http or https.
        path: where the file appears once it is complete.
        size: its bytes, where known; another size is an error.
        progress: draw a bar on a terminal.

    Raises:
        DownloadError: unreachable, refused, not enough space on the disk, of another size, or a web page in place of a file. What was
            received before a network error is kept for the next call.
    """
    path = Path(path)
    if urlsplit(url).scheme not in ("http", "https"):
        raise _failure(url, path, "it is no http or https address")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _Part.of(url, path)
    with tqdm(desc=path.name, unit="B", unit_scale=True, unit_divisor=1024, disable=None if progress else True) as bar:
        _persist(part, size, bar)
    received = part.received
    if size is not None and received != size:
        part.discard()
        raise _failure(url, path, f"the server sent {received:,} bytes{' and more' if received > size else ''}; expected {size:,}")
    os.replace(part.file, path)
    part.note.unlink(missing_ok=True)


def file_digest(path: str | Path, algorithm: str) -> str:
    """The file's digest in hexadecimal; ``algorithm`` as in hashlib."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


@dataclass
class _Part:
    """What has been received, and next to it a note on the file that it is the beginning of."""

    url: str
    path: Path
    file: Path
    note: Path
    validator: str | None = None
    total: int | None = None

    @classmethod
    def of(cls, url: str, path: Path) -> "_Part":
        part = cls(url, path, path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json"))
        known: dict[str, Any] = {}
        if part.note.is_file():
            try:
                known = json.loads(part.note.read_text())
            except ValueError:
                part.note.unlink()
        if known.get("url") == url:
            part.validator, part.total = known.get("validator"), known.get("total")
        else:
            part.discard()
        return part

    @property
    def received(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def begin(self, headers: Any, total: int | None) -> None:
        # If-Range needs a strong ETag: a weak one does not promise the same bytes.
        etag = headers.get("ETag", "W/")
        self.validator, self.total = headers.get("Last-Modified") if etag.startswith("W/") else etag, total
        with atomic_file(self.note, sync=True) as file:
            file.write(json.dumps({"url": self.url, "validator": self.validator, "total": total}).encode())

    def discard(self) -> None:
        self.file.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.validator = self.total = None


def _persist(part: _Part, size: int | None, bar: tqdm) -> None:
    """Repeat the request until the file is complete, or until too many attempts in a row brought no new bytes."""
    furthest, fruitless = part.received, 0
    while True:
        try:
            _transfer(part, size, bar)
            return
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == 416 and part.received:
                part.discard()
            elif error.code not in _PASSING_STATUS:
                raise _failure(part.url, part.path, reason) from error
        except _PASSING_ERRORS as error:
            reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        except DownloadError:
            raise
        except OSError as error:
            raise _failure(part.url, part.path, f"cannot write {part.file}: {error.strerror or error}") from error
        fruitless = 0 if part.received > furthest else fruitless + 1
        furthest = max(furthest, part.received)
        if fruitless >= _ATTEMPTS:
            kept = f"; {part.received:,} bytes are kept and the next call continues there" if part.received else ""
            raise _failure(part.url, part.path, f"{reason} ({_ATTEMPTS} attempts{kept})")
        time.sleep(_BACKOFF * 2 ** max(fruitless - 1, 0))


def _transfer(part: _Part, size: int | None, bar: tqdm) -> None:
    """One request, for the whole file or for what is missing. A cut transfer raises one of ``_PASSING_ERRORS``."""
    if part.total is not None and part.received == part.total:
        return
    with urllib.request.urlopen(_request(part), timeout=_TIMEOUT) as response:
        start, total = _extent(response, part)
        _refuse_early(response, part, start, total, size)
        bar.total, bar.n = total or size, start
        with open(part.file, "ab" if start else "wb") as file:
            if not start:
                part.begin(response.headers, total)
            _copy(response, file, size, bar)
    if part.total is not None and part.received < part.total:
        raise ConnectionError(f"the connection was cut after {part.received:,} of {part.total:,} bytes")


def _request(part: _Part) -> urllib.request.Request:
    headers = {"User-Agent": "detcon_d2", "Accept-Encoding": "identity"}
    if part.received:
        headers["Range"] = f"bytes={part.received}-"
        if part.validator:
            headers["If-Range"] = part.validator
    return urllib.request.Request(part.url, headers=headers)


def _extent(response: Any, part: _Part) -> tuple[int, int | None]:
    """First byte of the response and size of the whole file; None where the server does not report the size."""
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        total = int(found[2]) if found and found[2] != "*" else None
        if found and int(found[1]) == part.received and (part.total is None or total in (None, part.total)):
            return part.received, total or part.total
        part.discard()
        raise http.client.HTTPException("the server continued another file")
    length = response.headers.get("Content-Length")
    return 0, int(length) if length and length.isdigit() else None


def _refuse_early(response: Any, part: _Part, start: int, total: int | None, size: int | None) -> None:
    """Refuse a web page, another size, or a disk that is too small, before anything is written."""
    if response.headers.get_content_type() == "text/html" or (not start and _PAGE.match(response.peek(64))):
        raise _failure(part.url, part.path, "the server sent a web page in place of the file (moved, or a proxy's login)")
    if size is not None and total is not None and total != size:
        raise _failure(part.url, part.path, f"the server announces {total:,} bytes; expected {size:,}")
    free, needed = shutil.disk_usage(part.file.parent).free, (total or size or 0) - start
    if needed > free:
        raise _failure(part.url, part.path, f"no space: {needed:,} bytes needed, {free:,} free in {part.file.parent}")


def _copy(response: Any, file: BinaryIO, size: int | None, bar: tqdm) -> None:
    while (size is None or file.tell() <= size) and (block := response.read(_CHUNK)):
        file.write(block)
        bar.update(len(block))
    file.flush()
    os.fsync(file.fileno())


def _failure(url: str, path: Path, reason: str) -> DownloadError:
    return DownloadError(f"Cannot download {url}: {reason}. Or download it by hand to {path}")
