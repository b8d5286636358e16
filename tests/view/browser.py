"""A real browser on a real server, for the tests of the page."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_S = 60

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
"""Of axe-core: WCAG 2.2 AA, and more."""

VIEWER = "OpenSeadragon.getViewer(document.querySelectorAll('.stage')[{pane}])"


@contextmanager
def viewer_process(predictions: Path, *arguments: str) -> Iterator[str]:
    """``pathgene-rt view`` on a free port; its address."""
    command = [sys.executable, "-m", "pathgene_rt.cli", "view", str(predictions), "--port", "0"]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), address
        yield address
    finally:
        process.terminate()
        process.wait(START_S)


@dataclass
class Watched:
    """A page, every request that it made, and every complaint of the browser."""

    page: object
    address: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=lambda: ["willReadFrequently"])
    """Parts of messages that the test itself brings about."""

    @classmethod
    def on(cls, page, address: str) -> Watched:
        watched = cls(page, address)
        page.on("request", lambda request: watched.requests.append(request.url))
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        page.on("console", watched._heard)
        return watched

    def _heard(self, message) -> None:
        if message.type in ("error", "warning") and not any(
            part in message.text for part in self.expected
        ):
            self.complaints.append(message.text)

    def open(self, place: str = "") -> None:
        """Go to a part of the page and wait for what it shows."""
        self.page.goto(f"{self.address}{place}")
        if place:
            self.ready()
        else:
            self.page.wait_for_selector("tbody tr")

    def until(self, expression: str) -> None:
        """Wait until the page's ``expression`` holds. (Playwright's own way evaluates a string in
        the page, which its security policy forbids.)"""
        for _ in range(600):
            if self.page.evaluate(f"Boolean({expression})"):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"never came true: {expression}")

    def ready(self, panes: int = 1) -> None:
        """Wait until all panes show their slide, with all its squares, and the tiles beside it."""
        self.page.wait_for_selector("button.tile")
        self.until(f"document.querySelectorAll('.stage').length === {panes}")
        self.still()
        assert "[object" not in self.page.inner_text("body")

    def still(self) -> None:
        """Wait until nothing moves and everything is drawn."""
        self.page.evaluate(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        self.until(
            """(() => {
                const stages = [...document.querySelectorAll('.stage')];
                const all = stages.map((one) => OpenSeadragon.getViewer(one));
                const now = JSON.stringify(all.map((v) => v && v.viewport.getBounds(true)));
                const same = window.lastBounds === now;
                window.lastBounds = now;
                return same && all.every((v) => v && v.world.getItemAt(0)?.getFullyLoaded());
            })()"""
        )

    def evaluate(self, expression: str, pane: int = 0):
        """``expression`` with ``v`` as the pane's OpenSeadragon viewer."""
        return self.page.evaluate(
            f"(() => {{ const v = {VIEWER.format(pane=pane)}; {expression} }})()"
        )

    def place(self, pane: int = 0) -> tuple[float, float, float, float]:
        """(x, y) in level-0 pixels of the middle, level-0 pixels a page's pixel, degrees."""
        found = self.evaluate(
            "const c = v.world.getItemAt(0).viewportToImageCoordinates(v.viewport.getCenter());"
            "const s = v.world.getItemAt(0).getContentSize().x"
            " / (v.viewport.getZoom() * v.viewport.getContainerSize().x);"
            "return [c.x, c.y, s, v.viewport.getRotation()]",
            pane,
        )
        return tuple(found)

    def pixels(self, layer: str = "slide", pane: int = 0, side: int = 64) -> np.ndarray:
        """RGBA uint8 [side, side, 4] around the middle of the slide's or the overlay's canvas."""
        canvas = "v.drawer.canvas" if layer == "slide" else "v.canvas.querySelector('.overlay')"
        found = self.evaluate(
            f"const c = {canvas}; const n = {side};"
            "return [...c.getContext('2d').getImageData("
            "Math.round(c.width / 2) - n / 2, Math.round(c.height / 2) - n / 2, n, n).data]",
            pane,
        )
        return np.array(found, dtype=np.uint8).reshape(side, side, 4)

    def assert_private(self) -> None:
        """Nothing was asked of anybody but this server, and the browser did not complain."""
        own = urlsplit(self.address).netloc
        others = [
            url
            for url in self.requests
            if urlsplit(url).netloc != own and not url.startswith(f"blob:http://{own}/")
        ]
        assert others == []
        assert self.complaints == []


def assert_axe_finds_nothing(page) -> None:
    """Of RULES on what ``page`` shows; skips with a reason where axe is not installed."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed"
    )
    found = axe.Axe().run(page, options={"runOnly": RULES})
    assert found.violations_count == 0, found.generate_report()


@contextmanager
def chromium():
    """A browser without a window; skips with a reason where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium to open the page in (apt-get install chromium)")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()
