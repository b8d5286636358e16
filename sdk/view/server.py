"""Listening on this machine."""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pathgene_rt.errors import UsageError
from pathgene_rt.files import reason
from pathgene_rt.pages.texts import LANGUAGES
from pathgene_rt.view.requirements import require_view

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from pathgene_rt.view.app import View

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8765
MAX_CONNECTIONS = 16_384


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """How :func:`serve` serves.

    ``port`` 0 takes one that is free. ``host`` other than loopback needs a ``token`` of at least
    16 characters, which every request must bring; "new" makes one. ``language`` is what the page
    starts in, "en" or "zh"; empty: what the browser prefers.
    """

    port: int = DEFAULT_PORT
    host: str = LOOPBACK
    token: str | None = None
    language: str = ""

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if not 0 <= self.port <= 65_535:
            raise UsageError(f"--port {self.port} is no port; give 0 to 65535")
        if self.language not in ("", *LANGUAGES):
            raise UsageError(
                f"--language {self.language} is unknown; give {' or '.join(LANGUAGES)}"
            )
        if self.token is not None and len(self.token) < 16 and self.token != "new":
            raise UsageError("--token is too short; give at least 16 characters, or: --token new")
        if not is_loopback(self.host) and self.token is None:
            raise UsageError(
                f"--host {self.host} lets other machines in, so it needs --token; --token new "
                "makes one"
            )


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine for itself alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    predictions: Path,
    slides: Sequence[Path] = (),
    options: ViewOptions | None = None,
    *,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Show the results in ``predictions``, with their slides from the folders ``slides``, to a
    browser of this machine; returns when it is interrupted (Ctrl-C).

    ``ready`` is called with the address once it can be opened. Nothing outside these folders is
    read, nothing is written, and no connection is opened to anywhere. Raises UsageError for a port
    that is in use, OutputError for a folder that cannot be listed, MissingExtraError without the
    extra "view".
    """
    require_view()
    chosen = options or ViewOptions()
    view, listening = prepared(Path(predictions), slides, chosen)
    with listening:
        server_of(view, listening, chosen, ready)[0].run(sockets=[listening])


def prepared(
    predictions: Path, slides: Sequence[Path], options: ViewOptions
) -> tuple[View, socket.socket]:
    """What is shown, and the socket to listen on. Nothing is started if either cannot be; raises as
    :func:`serve` does."""
    from pathgene_rt.view.app import View
    from pathgene_rt.view.results import ResultFolder
    from pathgene_rt.view.slide_files import SlideFolders
    from pathgene_rt.view.slide_workers import SlideWorkers

    results = ResultFolder(predictions)
    folders = SlideFolders(slides, results.root)
    listening = listen(options.host, options.port)
    return View(results, folders, SlideWorkers(), options.language), listening


def server_of(
    view: View,
    listening: socket.socket,
    options: ViewOptions,
    ready: Callable[[str], None] | None = None,
) -> tuple[uvicorn.Server, str]:
    """The server of ``view``, to be run on the socket, and the address to open."""
    import uvicorn

    token = secrets.token_urlsafe(24) if options.token == "new" else options.token
    port = int(listening.getsockname()[1])
    shown = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if ready is not None and self.started:
                ready(address)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            view.events.close()  # pages that listen would never end by themselves
            await super().shutdown(sockets)

    config = uvicorn.Config(
        _guarded(view, options.host, port, token),
        log_level="error",  # a flood of requests is not one of lines
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=2,
        ws="none",
    )
    return Server(config), address


def _guarded(view: View, host: str, port: int, token: str | None) -> ASGIApp:
    """The application, for the names that ``host`` is reached by."""
    from pathgene_rt.view.app import make_app
    from pathgene_rt.view.guard import Guard

    everywhere = host in ("0.0.0.0", "::")
    hosts = {"localhost", LOOPBACK, "[::1]", host, f"[{host}]"}
    if not is_loopback(host):
        hosts.add(socket.gethostname())
    return Guard(make_app(view), hosts=hosts, port=port, token=token, any_address=everywhere)


def listen(host: str, port: int) -> socket.socket:
    """A socket on ``host`` and ``port``. Raises UsageError if that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"--host {host} is no address of this machine: {error}") from error
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        if error.errno in (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", -1)):
            raise UsageError(
                f"port {port} is in use, perhaps by another viewer; give another with --port, or "
                "--port 0 for one that is free"
            ) from error
        raise UsageError(
            f"cannot listen on {host} port {port}: {reason(error)}; choose others with --host "
            "and --port"
        ) from error
    return listening
