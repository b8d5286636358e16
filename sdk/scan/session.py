"""Prediction while a slide is scanned: tiles are pushed in, interim and final reports come out.

What a file gives and what the same pixels give when they are pushed is the same: the same tissue,
the same tiles, the same predictions. The tissue of a slide is known only when all of it has come.
Until then every tile that looks like tissue is encoded, the others are deferred; at the end the
tissue is found on the overview that the pushed pixels make up, what was deferred and is tissue
after all is encoded as well, and what was encoded and is none is left out.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from pathgene_rt.bundle.tile_policy import excluding
from pathgene_rt.cancellation import INTERRUPTIBLE_S, CancellationToken
from pathgene_rt.errors import (
    CancelledError,
    NoTissueError,
    ScanInputError,
    ScanStateError,
    ScanTimeoutError,
)
from pathgene_rt.extraction.prepare import timed
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.left_out import excluded, usable_tiles
from pathgene_rt.files import writable_folder
from pathgene_rt.geometry import Float32Array, Int64Array, SlideInfo, TileGrid, UInt8Array
from pathgene_rt.heads.prediction import Prediction
from pathgene_rt.own_process import OwnProcess
from pathgene_rt.pseudonyms import shown_id
from pathgene_rt.quality.check import CheckedSlide, CheckedTile
from pathgene_rt.quality.inspection import TileInspection
from pathgene_rt.report.report import Report
from pathgene_rt.scan.assembler import TileIndex
from pathgene_rt.scan.input import (
    WHITE,
    Colour,
    PixelFormat,
    ScanOptions,
    checked_background,
    checked_corner,
    checked_timeout,
    rgb_view,
    scanned_slide,
)
from pathgene_rt.scan.intake import Tile, TileIntake
from pathgene_rt.scan.progress import ScanProgress
from pathgene_rt.scan.pushed_bag import PushedBag
from pathgene_rt.scan.result import ScanModel, ScannedSlide, ScanResult, scan_result
from pathgene_rt.slides.overview import overview_level
from pathgene_rt.slides.scale import slide_mpp
from pathgene_rt.tiles.grid import plan_grid, plan_scale
from pathgene_rt.tiles.tissue import overview_mpp, tissue_mask

__all__ = ["PixelFormat", "ScanModel", "ScanOptions", "ScanProgress", "ScanSession"]


class ScanSession:
    """One slide while it is scanned; made by ``Predictor.open_scan``. Use as a context manager.

    Every method may be called from any thread at any time. As long as a tile is not whole, of
    pixels pushed to the same place the last count; once it is, further ones are passed over.

    Memory: the tiles that are not whole (``options.partial_bytes``), those that wait for the
    encoder (``options.waiting_tiles``, plus what one push makes whole), those deferred
    (``options.deferred_bytes``), the overview (12 bytes for each of at most 6 million pixels; at
    the end what finding tissue takes) and the bag.
    """

    def __init__(
        self,
        model: ScanModel,
        mpp: float,
        size_px: tuple[int, int] | None = None,
        *,
        slide_id: str = "scan",
        background: Colour = WHITE,
        options: ScanOptions | None = None,
    ) -> None:
        """``mpp`` is um per pushed pixel; ``size_px`` (w, h) of the slide, None if it is what is
        pushed; ``background`` the colour of what never comes.

        Raises ScanInputError; SlideScaleError if the bundle's encoder does not take that scale;
        EngineError if the predictor was closed.
        """
        self._model = model
        self._options = options or ScanOptions()
        self._size = size_px
        shown = shown_id(slide_id, self._options.pseudonyms)
        self._info = scanned_slide(shown, mpp, size_px)
        self._extent = (0, 0) if size_px is None else self._info.size_px
        preprocess = model.bundle.preprocess
        # The only level is that of downsample 1, so the span is a whole number.
        self._span = plan_scale(self._info, preprocess).read_px
        self._factor = self._overview_factor(self._info)
        self._tiles = TileIntake(
            preprocess,
            self._span,
            self._factor,
            size_px,
            checked_background(background),
            self._options.tissue,
            partial_bytes=self._options.partial_bytes,
            deferred_bytes=self._options.deferred_bytes,
        )
        self._waiting: deque[Tile] = deque()
        tiles_mpp = self._span * mpp / preprocess.tile_px
        # Not of self: a session that nobody needs any more is freed at once.
        inspection = TileInspection(CheckedSlide(shown, tiles_mpp, None))
        policy = excluding(model.bundle.manifest.quality)
        self._inspection = inspection
        self._bag = PushedBag(
            model.bundle.feature_dim,
            lambda rows: ~excluded(inspection.of_rows(rows), policy, shown),
        )
        bag, info, span = self._bag, self._info, self._span
        self._interim = model.heads.interim(
            total=None, bag=lambda: _feature_bag(model, info, span, *bag.reported())
        )
        self._predictions: tuple[Prediction, ...] = ()
        self._interim_lock = threading.Lock()

        self._process = OwnProcess("the scan")
        self._changed = threading.Condition()
        self._pushes = self._busy = self._pushing = 0
        self._no_more = self._finish_waits = self._finished = self._ended = self._closed = False
        self._result: ScanResult | None = None
        self._token = CancellationToken()
        self._stream = model.service.open(
            preprocess.tile_px, model.options.batch, self._token, self._bag.add
        )
        self._token.on_cancel(self._wake)
        self._began = time.perf_counter()
        self._thread = threading.Thread(target=self._run, name=f"scan {shown}", daemon=True)
        self._thread.start()

    def push(
        self,
        rgb: UInt8Array,
        x: int,
        y: int,
        *,
        format: PixelFormat = "RGB",
    ) -> bool:
        """Take the rectangle of level-0 pixels whose top-left corner is (``x``, ``y``).

        ``rgb`` is uint8 [h, w, 3] or [h, w, 4] as ``format`` says, of any strides; it is read in
        place and may be reused as soon as the call returns. True if all of it was taken; False if
        nothing was, because the encoder is behind: try again later. The answer depends on what
        waits before the call; a push that is taken may make any number of tiles whole. Never waits
        for the encoder.

        Raises ScanInputError for other arrays, empty or negative rectangles and such that leave the
        slide, ScanMemoryError where partial tiles would need more than ``partial_bytes``: nothing
        was taken then, and the session goes on. Raises ScanStateError after finish and close, and
        what ended the session (EngineError, CancelledError).
        """
        self._process.require()
        pixels = rgb_view(rgb, format)
        height, width = pixels.shape[:2]
        x, y = checked_corner(x, y, width, height, self._size)
        with self._changed:
            self._require_open()
            if self._no_more:
                raise ScanStateError("a push after finish; open another scan for another slide")
            if len(self._waiting) >= self._options.waiting_tiles:
                self._busy += 1
                return False
            extent = self._extent_with(x + width, y + height)
            tiles = self._tiles.push(pixels, x, y)
            self._extent = extent
            self._pushes += 1
            self._pushing += 1
        try:
            self._queue(tiles)
        except BaseException as error:
            self._token.cancel(error)
            raise
        finally:
            with self._changed:
                self._pushing -= 1
                self._changed.notify_all()
        return True

    def poll(self) -> ScanProgress:
        """Where the scan stands, with interim predictions. Never waits for the encoder.

        Heads that are folded in answer in milliseconds. Each of the others is run on the tiles so
        far if there are more than at the last call, from 200 tiles on thirteen times, for its
        interval. Intervals say how much the blocks of tiles seen so far disagree; what is not
        scanned yet may be of another kind. Raises ScanStateError after close, and what ended the
        session if it failed.
        """
        self._process.require()
        with self._changed:
            self._require_open()
            encoded, sent = self._bag.encoded, self._bag.sent
            progress = ScanProgress(
                pushes=self._pushes,
                busy=self._busy,
                whole=self._tiles.assembler.whole,
                encoded=encoded,
                waiting=len(self._waiting) + sent - encoded,
                deferred=len(self._tiles.deferred),
                partial=self._tiles.assembler.partial,
                partial_bytes=self._tiles.assembler.partial_bytes,
            )
        seen, interim = self._interim_predictions()
        return replace(progress, seen=seen, interim=interim)

    def finish(self, timeout: float | None = None, *, out: Path | None = None) -> Report:
        """No more pixels will come: wait for the report, at most ``timeout`` seconds.

        ``out`` is a folder for the report's files. Raises ScanTimeoutError if the time is up: the
        work goes on, and finish may be called again to wait for it. Raises ScanStateError for a
        second finish; ScanInputError; NoTissueError; EngineError; OutputError; CancelledError.
        """
        self._process.require()
        timeout = checked_timeout(timeout)
        with self._changed:
            self._require_open()
            if self._finished or self._finish_waits:
                raise ScanStateError("a second finish; the first gives the report")
            self._finish_waits = True
        try:
            if out is not None:
                writable_folder(out)
            result = self._wait_for_result(timeout)
            report = result.given() if out is None else result.written(out)
            self._finished = True
            return report
        finally:
            self._finish_waits = False

    def cancel(self) -> None:
        """Stop and drop everything; a finish that waits raises CancelledError. Idempotent."""
        if not self._process.is_this:
            return
        self._token.cancel(CancelledError("the scan was cancelled; there is no report"))

    def close(self) -> None:
        """Cancel what is not finished and free everything. Idempotent."""
        if not self._process.is_this:
            return  # its threads are the other process's
        with self._changed:
            self._closed = True
        self.cancel()
        self._thread.join()
        self._token.drop_traceback()
        # Whoever still holds the session does not hold what is large.
        self._result = None
        self._bag.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise ScanStateError("the scan was closed; open another")
        self._token.raise_if_cancelled()

    def _queue(self, tiles: Iterable[Tile]) -> None:
        for tile in tiles:
            with self._changed:
                self._waiting.append(tile)
                self._changed.notify_all()

    def _extent_with(self, right: int, bottom: int) -> tuple[int, int]:
        """The slide's size with a rectangle that ends there. Raises ScanInputError."""
        extent = (max(self._extent[0], right), max(self._extent[1], bottom))
        grown = replace(self._info, size_px=extent)
        if self._size is None and self._overview_factor(grown) != self._factor:
            raise ScanInputError(
                f"a slide of {extent[0]} x {extent[1]} px needs a coarser overview than was begun; "
                "give size_px when the scan is opened"
            )
        return extent

    def _overview_factor(self, info: SlideInfo) -> int:
        return overview_level(info, overview_mpp(info, self._options.tissue))[1]

    def _interim_predictions(self) -> tuple[int, tuple[Prediction, ...]]:
        """How many tiles heads have seen, and what they say of them."""
        with self._interim_lock:
            rows, places, features = self._bag.take_new()
            if len(rows):
                self._interim.add(rows, features, places)
                self._predictions = self._interim.predictions()
            return self._interim.done, self._predictions

    def _wait_for_result(self, timeout: float | None) -> ScanResult:
        until = math.inf if timeout is None else time.monotonic() + timeout
        with self._changed:
            self._no_more = True
            self._changed.notify_all()
            while not self._ended:
                left = until - time.monotonic()
                if left <= 0:
                    raise ScanTimeoutError(
                        f"the report was not ready after {timeout:g} s; call finish again to wait "
                        "on, or cancel"
                    )
                self._changed.wait(min(left, INTERRUPTIBLE_S))
            if self._result is None:
                self._token.raise_if_cancelled()
            assert self._result is not None
            return self._result

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # In the session's own thread.

    def _run(self) -> None:
        try:
            while (tile := self._next_waiting()) is not None:
                self._send(*tile)
            self._result = self._complete()
        except BaseException as error:  # noqa: BLE001 - raised again by finish
            self._token.cancel(error)
        finally:
            self._stream.close()
            with self._changed:
                self._waiting.clear()
                self._tiles.clear()
                self._ended = True
                self._changed.notify_all()

    def _next_waiting(self) -> tuple[TileIndex, UInt8Array | None] | None:
        """What to send next; None when no more pixels come."""
        with self._changed:
            while not (self._no_more and self._pushing == 0):
                self._token.raise_if_cancelled()
                if not self._no_more:
                    if self._waiting:
                        return self._waiting.popleft()
                    place = self._tiles.maybe()
                    if place is not None:
                        return place, None
                self._changed.wait()
            return None

    def _send(self, place: TileIndex, rgb: UInt8Array | None) -> None:
        """Send a tile to the encoder; None is what was deferred."""
        slot = self._stream.acquire()
        assert slot is not None  # there is no total
        self._bag.send(place)
        slot.rgb[:] = self._tiles.take(place) if rgb is None else rgb
        corner = (place[0] * self._span, place[1] * self._span)
        self._inspection.look(CheckedTile(slot.number, corner, slot.rgb))
        self._stream.commit(slot)

    def _complete(self) -> ScanResult:
        """What :meth:`Predictor.predict` would say of the pixels that came."""
        tissue, seconds = self._options.tissue, {"scan": time.perf_counter() - self._began}
        if self._pushes == 0:
            raise NoTissueError(f"{self._info.slide_id}: nothing was pushed before finish")
        info = replace(self._info, size_px=self._extent)
        with timed(seconds, "tissue_and_grid"):
            never_pushed = self._tiles.assembler.never_pushed(info.size_px)
            self._queue(self._tiles.rest(info.size_px))
            overview = self._tiles.overview(info.size_px)
            mask = tissue_mask(overview, slide_mpp(info) * self._factor, tissue)
            grid = plan_grid(info, self._model.bundle.preprocess, mask, tissue)
        with timed(seconds, "encode"):
            places = self._send_missing(grid)
            self._stream.finish()
            stats = self._stream.wait()
        bag = _feature_bag(self._model, self._info, self._span, grid.coords, self._bag.rows(places))
        rows = self._bag.order_of(places)
        flags = self._inspection.of_rows(rows, among=rows)
        tiles = usable_tiles(replace(bag, flags=flags), self._model.bundle.manifest.quality)
        quality = {**mask.quality, **flags.quality}
        slide = ScannedSlide(info, grid, tiles, overview, quality, stats, never_pushed)
        return scan_result(self._model, slide, seconds)

    def _send_missing(self, grid: TileGrid) -> list[TileIndex]:
        """Send the tiles of ``grid`` that were not; the places of all, in the grid's order."""
        waiting = dict(self._waiting)
        places = [(int(column), int(row)) for column, row in grid.coords]
        for place in places:
            if place not in self._bag:
                self._send(place, waiting.get(place))
        return places


def _feature_bag(
    model: ScanModel, info: SlideInfo, span: int, places: Int64Array, features: Float32Array
) -> FeatureBag:
    """``features`` float32 [n, D] of tiles at ``places`` int64 [n, 2] (column, row)."""
    tile_px = model.bundle.preprocess.tile_px
    return FeatureBag(
        slide_id=info.slide_id,
        features=features,
        xy=(places * span).astype(np.int32),
        tile_px=tile_px,
        mpp=span * slide_mpp(info) / tile_px,
        span_px=float(span),
        encoder_sha256=model.bundle.encoder.weights_sha256,
    )
