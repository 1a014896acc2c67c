"""A local HTTP server whose behaviour a test chooses: ranges or none, cut connections, wrong lengths, error pages."""

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What the server has and how it behaves; ``requests`` records (path, Range header or None) of every GET."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etag: bool = True
    # Bytes of the body after which the connection of each request in turn is cut; None: it is not.
    cuts: list[int | None] = field(default_factory=list)
    # Statuses with which the requests in turn are refused; 200: answered.
    statuses: list[int] = field(default_factory=list)
    announce_length: bool = True
    # Sent in place of each file's own length.
    announced: int | None = None
    content_type: str = "application/octet-stream"
    # Seconds before each answer.
    delay: float = 0.0
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serve on a free port of this machine; ``site.url`` has no slash at its end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, wanted = self.site, self.headers.get("Range")
        site.requests.append((self.path, wanted))
        time.sleep(site.delay)
        status = site.statuses.pop(0) if site.statuses else 200
        body = site.files.get(self.path)
        if status != 200 or body is None:
            self.send_error(status if status != 200 else 404)
            return
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges else 0
        if self.headers.get("If-Range", etag) != etag:
            start = 0
        if start and start >= len(body):
            self.send_error(416)
            return
        self._send(body, start, etag)

    def _send(self, body: bytes, start: int, etag: str) -> None:
        site = self.site
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", site.content_type)
        if site.announce_length:
            self.send_header("Content-Length", str(site.announced or len(body) - start))
        if site.etag:
            self.send_header("ETag", etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        cut = site.cuts.pop(0) if site.cuts else None
        # A client that has seen enough closes the connection.
        with suppress(ConnectionError):
            self.wfile.write(body[start:] if cut is None else body[start : start + cut])

    def log_message(self, format: str, *args: object) -> None:
        pass
