"""The viewer beside work that goes on in the same process, such as a scan."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pathgene_rt.view.requirements import require_view
from pathgene_rt.view.server import ViewOptions, prepared, server_of

if TYPE_CHECKING:
    from pathgene_rt.geometry import UInt8Array

_START_S = 60.0


class LiveView:
    """A viewer on a thread of its own, which other threads tell what happens. A context manager:
    ``address`` can be opened inside it, and the server ends with it.
    """

    def __init__(
        self, predictions: Path, slides: Sequence[Path], options: ViewOptions | None = None
    ) -> None:
        """Raises as :func:`~pathgene_rt.view.server.serve` does."""
        require_view()
        self._ready = threading.Event()
        self._view, listening = prepared(predictions, slides, options or ViewOptions())
        self._listening = listening
        self._server, self.address = server_of(
            self._view, listening, options or ViewOptions(), lambda _: self._ready.set()
        )
        self._thread = threading.Thread(target=self._run, name="viewer", daemon=True)

    def publish(self, kind: str, document: Mapping[str, Any]) -> None:
        """Tell all pages, also those that open later, of the last of a ``kind``: "scan" or
        "progress". From any thread."""
        self._view.events.publish_soon(kind, document)

    def show_picture(self, rgb: UInt8Array) -> None:
        """What lies under the scan: ``rgb`` uint8 [h, w, 3], the whole slide."""
        from pathgene_rt.view.slide_process import jpeg

        self._view.scan_picture = jpeg(rgb)

    def _run(self) -> None:
        self._server.run(sockets=[self._listening])

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(_START_S)
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.should_exit = True
        self._thread.join(_START_S)
        self._listening.close()
