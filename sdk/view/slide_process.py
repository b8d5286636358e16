"""A process that reads slides for the page: what crashes in it ends it alone.

Run as ``python -m pathgene_rt.view.slide_process``. It takes jobs from stdin and answers on stdout,
one at a time, each message as :mod:`~pathgene_rt.process_messages` has it. It ends with its stdin.
"""

from __future__ import annotations

import io
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pathgene_rt.errors import PathGeneError, SlideError, SlideOpenError, TileDecodeError
from pathgene_rt.files import reason
from pathgene_rt.geometry import UInt8Array
from pathgene_rt.process_messages import Message, receive, send
from pathgene_rt.slides import Slide, open_slide
from pathgene_rt.slides.fingerprint import SlideFingerprint
from pathgene_rt.view.attention_layer import read_layer
from pathgene_rt.view.pyramid import (
    Pyramid,
    Region,
    WholePicture,
    needs_whole,
    read_region,
    read_whole,
)
from pathgene_rt.view.slide_files import SlideIdentity

MAX_OPEN = 3
JPEG_QUALITY = 85


class OpenSlides:
    """The slides last asked for, open; a file that changed is opened anew."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, tuple[SlideIdentity, Slide, list[WholePicture]]] = (
            OrderedDict()
        )

    def get(self, path: str) -> tuple[SlideIdentity, Slide]:
        """Raises SlideError."""
        identity, slide, _ = self._entry(path)
        return identity, slide

    def pixels(self, path: str, region: Region) -> UInt8Array:
        """RGB uint8 [h, w, 3]. Raises SlideReadError."""
        _, slide, whole = self._entry(path)
        if not needs_whole(slide.info, region.downsample):
            return read_region(slide, region)
        if not whole:
            whole.append(read_whole(slide))
        return whole[0].region(region)

    def _entry(self, path: str) -> tuple[SlideIdentity, Slide, list[WholePicture]]:
        try:
            identity = SlideIdentity.of(Path(path))
        except OSError as error:
            raise SlideOpenError(f"{Path(path).name}: {reason(error)}") from error
        known = self._open.get(path)
        if known is not None and known[0] == identity:
            self._open.move_to_end(path)
            return known
        if known is not None:
            known[1].close()
        entry = (identity, open_slide(Path(path)), list[WholePicture]())
        self._open[path] = entry
        self._open.move_to_end(path)
        while len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)[1][1].close()
        return entry


def jpeg(rgb: UInt8Array) -> bytes:
    """``rgb`` uint8 [h, w, 3] as a JPEG file without chroma subsampling."""
    import simplejpeg

    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=JPEG_QUALITY)
    return data


def info(slides: OpenSlides, job: Mapping[str, Any]) -> Message:
    identity, slide = slides.get(job["path"])
    facts = slide.info
    return {
        "size_px": list(facts.size_px),
        "mpp": facts.mpp,
        "downsamples": list(facts.downsamples),
        "vendor": facts.vendor,
        "reader": slide.reader,
        "origin_px": list(facts.bounds_xy_px),
        "identity": str(identity),
        "content_sha256": SlideFingerprint.of(Path(job["path"])).content_sha256,
    }, b""


def tile(slides: OpenSlides, job: Mapping[str, Any]) -> Message:
    identity, slide = slides.get(job["path"])
    region = Pyramid(slide.info.size_px).region(job["level"], job["column"], job["row"])
    if region is None:
        return {"error": "no_tile"}, b""
    return {"identity": str(identity)}, jpeg(slides.pixels(job["path"], region))


def region(slides: OpenSlides, job: Mapping[str, Any]) -> Message:
    """A square of ``span_px`` level-0 pixels, ``px`` wide as shown."""
    downsample = max(1.0, job["span_px"] / job["px"])
    px = max(1, round(job["span_px"] / downsample))
    asked = Region((job["x"], job["y"]), downsample, (px, px))
    return {}, jpeg(slides.pixels(job["path"], asked))


def tissue(slides: OpenSlides, job: Mapping[str, Any]) -> Message:
    """The mask that this version finds, as a PNG whose tissue is transparent and the rest grey."""
    from pathgene_rt.options import TissueOptions
    from pathgene_rt.slides.scale import slide_mpp
    from pathgene_rt.tiles.tissue import find_tissue

    _, slide = slides.get(job["path"])
    found, _ = find_tissue(slide, TissueOptions())
    shown = np.zeros((*found.mask.shape, 4), dtype=np.uint8)
    shown[~found.mask] = (40, 46, 58, 255)
    file = io.BytesIO()
    Image.fromarray(shown).save(file, format="PNG", compress_level=6)
    return {"downsample": found.mpp / slide_mpp(slide.info)}, file.getvalue()


def layer(slides: OpenSlides, job: Mapping[str, Any]) -> Message:  # noqa: ARG001
    return {}, read_layer(Path(job["path"]))


JOBS: dict[str, Callable[[OpenSlides, Mapping[str, Any]], Message]] = {
    "info": info,
    "tile": tile,
    "region": region,
    "tissue": tissue,
    "layer": layer,
}


def answer(slides: OpenSlides, job: Mapping[str, Any]) -> Message:
    """The answer to ``job``: its header has ``error`` ("damaged", "slide" or "file") and
    ``message`` where there is none."""
    try:
        return JOBS[job["job"]](slides, job)
    except TileDecodeError as error:
        return {"error": "damaged", "message": str(error)}, b""
    except SlideError as error:
        return {"error": "slide", "message": _nameless(error, job)}, b""
    except PathGeneError as error:
        return {"error": "file", "message": str(error)}, b""
    except MemoryError:
        return {"error": "slide", "message": "out of memory"}, b""


def _nameless(error: SlideError, job: Mapping[str, Any]) -> str:
    """The message with the file's name instead of its path: pages show no paths."""
    return str(error).replace(job["path"], Path(job["path"]).name)


def main() -> None:
    """Serve until stdin ends."""
    jobs = sys.stdin.buffer
    # Native code may print: that must not get between the messages.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    slides = OpenSlides()
    while True:
        try:
            job, _ = receive(jobs)
        except EOFError:
            return
        send(answers, *answer(slides, job))


if __name__ == "__main__":
    main()
