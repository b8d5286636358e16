"""What ``simulate-scan --view`` shows in the browser."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pathgene_rt.cli.console import Console

if TYPE_CHECKING:
    from pathgene_rt.scan.session import ScanProgress
    from pathgene_rt.scan.simulator import SimulatedScan
    from pathgene_rt.scan.stage import Stage
    from pathgene_rt.slides.slide import Slide
    from pathgene_rt.view.live import LiveView

_PICTURE_PX = 1600


class ScanView:
    """A page on which one scan is followed. ``out`` is the folder of its report's files."""

    def __init__(self, live: LiveView, slide: Slide, stage: Stage, results: Path) -> None:
        from pathgene_rt.slides.scale import slide_mpp

        self._live = live
        self.out = results / slide.info.slide_id
        mpp = max(slide.info.size_px) / _PICTURE_PX * slide_mpp(slide.info)
        live.show_picture(slide.overview(mpp).rgb)
        live.publish(
            "scan",
            {
                "slide": slide.info.slide_id,
                "size_px": list(slide.info.size_px),
                "places": [list(place) for place in stage.places(slide.info.size_px)],
            },
        )

    def show(self, seconds: float, progress: ScanProgress) -> None:
        """Where the scan stands, ``seconds`` after its first push."""
        self._live.publish("progress", {"seconds": seconds, "done": False, **progress.to_dict()})

    def finish(self, scan: SimulatedScan) -> None:
        """The scan is over; its report is in ``out``."""
        report = scan.report
        self._live.publish(
            "progress",
            {
                "seconds": scan.scan_s + scan.lag_s,
                "done": True,
                "pushes": scan.pushes,
                "encoded": report.provenance.tiles,
                "waiting": 0,
                "deferred": 0,
                "interim": [one.to_dict() for one in report.predictions],
            },
        )


@contextmanager
def scan_view(slide: Path, source: Slide, stage: Stage, console: Console) -> Iterator[ScanView]:
    """A viewer while the block runs, and then until Ctrl-C. Raises as the viewer's ``serve``."""
    from pathgene_rt.view.live import LiveView
    from pathgene_rt.view.server import ViewOptions

    with (
        tempfile.TemporaryDirectory(prefix="pathgene-rt-scan-") as folder,
        LiveView(Path(folder), [slide.resolve().parent], ViewOptions(port=0)) as live,
    ):
        console.note(f"{live.address}#/scan")
        yield ScanView(live, source, stage, Path(folder))
        console.note("the page stays until Ctrl-C")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return
