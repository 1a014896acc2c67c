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
from pathlib import Path
from typing import Any
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


def download(url: str, path: str | Path, *, size: int | None = None) -> None:
    """Download ``url`` to ``path``, continuing ``path.part`` where an earlier call left one; with a bar on a terminal.

    A continued file must be the same one: the server's ETag or date is sent with If-Range, and a server that has neither, that does not
    support ranges or that has another file by now sends it from the start. A proxy is taken from the usual environment variables. The
    caller must ensure that only one process at a time downloads to ``path``.

    Args:
        url: http or https.
        path: where the file appears once it is complete.
        size: its bytes, where known; another size is an error.

    Raises:
        DownloadError: unreachable, refused, not enough space on the disk, of another size, or a web page in place of a file. What was
            received before a network error is kept for the next call.
    """
    partial = _Partial(url, Path(path), size)
    if urlsplit(url).scheme not in ("http", "https"):
        raise partial.failure("it is no http or https address")
    partial.path.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(desc=partial.path.name, unit="B", unit_scale=True, unit_divisor=1024, disable=None) as bar:
        partial.complete(bar)
    received = partial.received
    if size is not None and received != size:
        partial.discard()
        raise partial.failure(f"the server sent {received:,} bytes{' and more' if received > size else ''}; expected {size:,}")
    os.replace(partial.file, path)
    partial.note.unlink(missing_ok=True)


def file_digest(path: str | Path, algorithm: str) -> str:
    """The file's digest in hexadecimal; ``algorithm`` as in hashlib."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


class _Partial:
    """What has been received of one file (``file``), with a ``note`` of its URL and of the version that the server had."""

    def __init__(self, url: str, path: Path, size: int | None) -> None:
        self.url, self.path, self.size = url, path, size
        self.file, self.note = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
        try:
            known = json.loads(self.note.read_text())
        except (FileNotFoundError, ValueError):
            known = {}
        self.validator: str | None = known.get("validator") if known.get("url") == url else None
        if self.validator is None:
            self.discard()

    @property
    def received(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def discard(self) -> None:
        self.file.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def failure(self, reason: str) -> DownloadError:
        return DownloadError(f"Cannot download {self.url}: {reason}. Or download it by hand to {self.path}")

    def complete(self, bar: tqdm) -> None:
        """Repeat the request until the file is complete, or until too many attempts in a row brought no new bytes."""
        furthest, fruitless = self.received, 0
        while True:
            try:
                return self._transfer(bar)
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code} {error.reason}"
                if error.code == 416 and self.received:
                    self.discard()
                elif error.code not in _PASSING_STATUS:
                    raise self.failure(reason) from error
            except _PASSING_ERRORS as error:
                reason = str(getattr(error, "reason", "") or error) or type(error).__name__
            except DownloadError:
                raise
            except OSError as error:
                raise self.failure(f"cannot write {self.file}: {error.strerror or error}") from error
            fruitless = 0 if self.received > furthest else fruitless + 1
            furthest = max(furthest, self.received)
            if fruitless >= _ATTEMPTS:
                kept = f"; {self.received:,} bytes are kept and the next call continues there" if self.received and self.validator else ""
                raise self.failure(f"{reason} ({_ATTEMPTS} attempts{kept})")
            time.sleep(_BACKOFF * 2 ** max(fruitless - 1, 0))

    def _transfer(self, bar: tqdm) -> None:
        """One request, for the whole file or for what is missing. A cut transfer raises one of ``_PASSING_ERRORS``."""
        headers = {"User-Agent": "detcon_d2", "Accept-Encoding": "identity"}
        if self.received and self.validator:
            headers |= {"Range": f"bytes={self.received}-", "If-Range": self.validator}
        with urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=_TIMEOUT) as response:
            start, total = self._extent(response)
            self._refuse_early(response, start, total)
            bar.total, bar.n = total or self.size, start
            with open(self.file, "ab" if start else "wb") as file:
                if not start:
                    self._begin(response.headers)
                while (self.size is None or file.tell() <= self.size) and (block := response.read(_CHUNK)):
                    file.write(block)
                    bar.update(len(block))
                file.flush()
                os.fsync(file.fileno())
        if total is not None and self.received < total:
            raise ConnectionError(f"the connection was cut after {self.received:,} of {total:,} bytes")

    def _extent(self, response: Any) -> tuple[int, int | None]:
        """First byte of the response and size of the whole file; None where the server does not report the size."""
        if response.status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if found and int(found[1]) == self.received:
                return self.received, int(found[2]) if found[2] != "*" else None
            self.discard()
            raise http.client.HTTPException("the server continued another file")
        length = response.headers.get("Content-Length")
        return 0, int(length) if length and length.isdigit() else None

    def _refuse_early(self, response: Any, start: int, total: int | None) -> None:
        """Refuse a web page, another size, or a disk that is too small, before anything is written."""
        if response.headers.get_content_type() == "text/html" or (not start and _PAGE.match(response.peek(64))):
            raise self.failure("the server sent a web page in place of the file (moved, or a proxy's login)")
        if self.size is not None and total is not None and total != self.size:
            raise self.failure(f"the server announces {total:,} bytes; expected {self.size:,}")
        free, needed = shutil.disk_usage(self.file.parent).free, (total or self.size or 0) - start
        if needed > free:
            raise self.failure(f"no space: {needed:,} bytes needed, {free:,} free in {self.file.parent}")

    def _begin(self, headers: Any) -> None:
        # If-Range needs a strong ETag: a weak one does not promise the same bytes.
        etag = headers.get("ETag", "W/")
        self.validator = headers.get("Last-Modified") if etag.startswith("W/") else etag
        with atomic_file(self.note, sync=True) as file:
            file.write(json.dumps({"url": self.url, "validator": self.validator}).encode())
