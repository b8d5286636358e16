"""A server between us and the real one, on loopback, that fails when it is told to."""

from __future__ import annotations

import ssl
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

STALL_S = 0.8
_STATUS = {
    "401": (401, "Unauthorized"),
    "403": (403, "Forbidden"),
    "404": (404, "Not Found"),
    "429": (429, "Too Many Requests"),
    "500": (500, "Internal Server Error"),
    "503": (503, "Service Unavailable"),
    "507": (507, "Insufficient Storage"),
}


def kind_of(path: str, method: str) -> str:
    """What a request is for: find, metadata, frames or store."""
    if method == "POST":
        return "store"
    plain = path.partition("?")[0]
    return next((name for name in ("metadata", "frames") if f"/{name}" in plain), "find")


class FaultyProxy:
    """Forwards to ``target`` inside the ``with``. ``faults`` are taken one by one, by the kind of
    request that each is for; ``seen`` counts requests, ``before`` is called with the kind of each.
    """

    def __init__(
        self, target: str, certificate: Path | None = None, asks_for: Path | None = None
    ) -> None:
        """With ``certificate``, and its key in the same file, it speaks TLS; ``asks_for`` are those
        that who comes has to show."""
        self.target = target
        self.faults: dict[str, list[str]] = {}
        self.seen: Counter[str] = Counter()
        self.happened: list[tuple[str, str]] = []
        self.before: Callable[[str], None] = lambda kind: None
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._serve(self, None)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy._serve(self, body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.authorization: list[str] = []
        self._secure = certificate is not None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            if asks_for is not None:
                context.load_verify_locations(asks_for)
                context.verify_mode = ssl.CERT_REQUIRED
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    @property
    def url(self) -> str:
        scheme = "https" if self._secure else "http"
        return f"{scheme}://127.0.0.1:{self._server.server_address[1]}/dicom-web"

    def _serve(self, request: BaseHTTPRequestHandler, body: bytes | None) -> None:
        kind = kind_of(request.path, request.command)
        with self._lock:
            self.seen[kind] += 1
            self.authorization.append(request.headers.get("Authorization", ""))
            queued = self.faults.get(kind) or [""]
            fault = queued.pop(0)
            if fault:
                self.happened.append((kind, fault))
        self.before(kind)
        if fault and self._fails_alone(request, fault):
            return
        try:
            status, content_type, data = self._forward(request, body)
        except OSError:
            request.close_connection = True
            request.connection.close()
            return
        if fault == "fewer":
            end = data.find(b"\r\n--", 2)
            data = data[end + 2 :]
        if fault == "other syntax":
            content_type = content_type.replace("1.2.4.50", "1.2.4.90")
            data = data.replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.90")
        if fault == "cut":
            request.send_response(status)
            request.send_header("Content-Type", content_type)
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            request.wfile.write(data[: len(data) // 2])
            request.close_connection = True
            return
        self._answer(request, status, "", content_type, data)

    def _fails_alone(self, request: BaseHTTPRequestHandler, fault: str) -> bool:
        """Whether ``fault`` is one that needs nothing of the real server; then it has happened."""
        if fault == "refuse":
            request.close_connection = True
            request.connection.close()
        elif fault == "stall":
            time.sleep(STALL_S)
            request.close_connection = True
        elif fault in _STATUS:
            self._answer(request, *_STATUS[fault], "text/plain", b"")
        elif fault == "redirect":
            request.send_response(302)
            request.send_header("Location", "http://127.0.0.1:9/elsewhere")
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif fault == "html":
            self._answer(request, 200, "OK", "text/html", b"<html>please log in</html>")
        else:
            return False
        return True

    def _forward(
        self, request: BaseHTTPRequestHandler, body: bytes | None
    ) -> tuple[int, str, bytes]:
        path = request.path.removeprefix("/dicom-web")
        headers = {
            name: value
            for name in ("Accept", "Content-Type")
            if (value := request.headers.get(name))
        }
        asked = urllib.request.Request(self.target + path, data=body, headers=headers)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return answer.status, answer.headers.get("Content-Type", ""), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers.get("Content-Type", ""), error.read()

    @staticmethod
    def _answer(
        request: BaseHTTPRequestHandler, status: int, reason: str, content_type: str, data: bytes
    ) -> None:
        request.send_response(status, reason or None)
        request.send_header("Content-Type", content_type)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
