"""A series of an archive as a slide whose encoded tiles are the server's frames."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from pathgene_rt.dicomweb.archive import Archive, SeriesKey, is_uid
from pathgene_rt.dicomweb.frames import CACHE_BYTES, SlideFrames
from pathgene_rt.errors import SlideOpenError
from pathgene_rt.files import sha256
from pathgene_rt.geometry import Int64Array, TileGrid
from pathgene_rt.slides.dicom.header import WHOLE_SLIDE
from pathgene_rt.slides.dicom.instance import Instance, instance_of_frames
from pathgene_rt.slides.dicom.levels import DicomPyramid, pyramid_of
from pathgene_rt.slides.fingerprint import SlideFingerprint
from pathgene_rt.slides.given_slide import GivenSlide
from pathgene_rt.slides.scale import settled_scale
from pathgene_rt.slides.slide import Slide
from pathgene_rt.slides.tiff.layout import TiledLevel, tiles_under
from pathgene_rt.slides.tiff.reader import slide_of_levels

_PIXELS = frozenset({"7FE00008", "7FE00009", "7FE00010"})


class SeriesSlide:
    """The slide of one series. Raises SlideOpenError where the series is none that is read here;
    ArchiveError, CancelledError.

    Memory: ``limit_bytes`` of frames as they are stored, beside what a slide in files takes.
    """

    def __init__(self, archive: Archive, key: SeriesKey, *, limit_bytes: int = CACHE_BYTES) -> None:
        self._archive, self.key, self._limit = archive, key, limit_bytes
        self.datasets = list(_pictures(archive.metadata(key)))
        if not self.datasets:
            raise SlideOpenError(f"{key.series}: holds no picture of a slide (VOLUME)")
        self.frames: SlideFrames | None = None
        self._first: dict[tuple[int, int], bytes] = {}
        self._names = [str(one.SOPInstanceUID) for one in self.datasets]
        self._syntaxes: list[str] = []
        self._begin_s = [0.0] * len(self._names)
        self._pyramid = self._read_pyramid()
        order = [self._names.index(path.name) for path in self._pyramid.paths]
        self._order = order

    def given(self) -> GivenSlide:
        """For :meth:`Predictor.predict`. DICOM objects never change, so their UIDs tell them."""
        content = sha256("\n".join(sorted(self._names)).encode())
        return GivenSlide(
            name=self.key.series,
            fingerprint=SlideFingerprint(content, content),
            open=self.open,
            expect=self.expect,
            datasets=self.datasets,
        )

    def open(self) -> Slide:
        """The slide; closing it drops its frames."""
        counts = [int(self.datasets[one].get("NumberOfFrames") or 1) for one in self._order]
        self.frames = SlideFrames(
            self._fetch,
            counts,
            connections=self._archive.session.server.connections,
            limit_bytes=self._limit,
            begin_s=[self._begin_s[one] for one in self._order],
        )
        scale = settled_scale(*self._pyramid.mpp, None)
        name = Path(self.key.series)
        return slide_of_levels(
            name, self.frames, self._pyramid.levels, scale, "dicom", self._pyramid.warnings
        )

    def expect(self, grid: TileGrid, rows: Int64Array) -> None:
        """Tell the frames that the tiles ``rows`` of ``grid`` touch, in their order."""
        if self.frames is not None:
            self.frames.expect(_touched(self._pyramid.levels, grid, rows))

    def _fetch(self, picture: int, numbers: list[int]) -> list[bytes]:
        number = self._order[picture]
        kept = {one: self._first.pop((number, one), None) for one in numbers}
        asked = [one for one, data in kept.items() if data is None]
        came: list[bytes] = []
        if asked:
            _, came = self._archive.frames(
                self.key, self._names[number], [one + 1 for one in asked], self._syntaxes[number]
            )
        fetched = dict(zip(asked, came, strict=True))
        return [kept[one] or fetched[one] for one in numbers]

    def _first_frame(self, number: int) -> str:
        """The transfer syntax of a picture, which its first frame comes in; that is kept."""
        began = time.monotonic()
        syntax, (frame,) = self._archive.frames(self.key, self._names[number], [1])
        self._begin_s[number] = time.monotonic() - began
        self._first[number, 0] = frame
        return syntax

    def _read_pyramid(self) -> DicomPyramid:
        instances: list[Instance] = []
        why = ""
        at_once = self._archive.session.server.connections
        with ThreadPoolExecutor(at_once) as pool:
            self._syntaxes = list(pool.map(self._first_frame, range(len(self.datasets))))
        for name, data, syntax in zip(self._names, self.datasets, self._syntaxes, strict=True):
            try:
                instances.append(instance_of_frames(Path(name), data, syntax))
            except ValueError as error:
                why = str(error)
                break
        try:
            if why:
                raise ValueError(why)
            pyramid = pyramid_of(instances)
        except ValueError as error:
            raise SlideOpenError(
                f"{self.key.series}: a DICOM slide that is not read over DICOMweb ({error}); store "
                "it in JPEG, TILED_FULL"
            ) from error
        # Frames come without the heads of fragments.
        levels = tuple(replace(level, unwrap=None) for level in pyramid.levels)
        return replace(pyramid, levels=levels)


def _pictures(metadata: list[dict[str, Any]]) -> Iterator[Any]:
    """The pictures of the slide itself, with their attributes as pydicom has them."""
    from pydicom.dataset import Dataset

    for document in metadata:
        try:
            kept = {tag: document[tag] for tag in document if tag not in _PIXELS}
            data = Dataset.from_json(kept, _not_fetched)
            wanted = data.SOPClassUID == WHOLE_SLIDE and "VOLUME" in list(data.ImageType)
            if wanted and not is_uid(str(data.SOPInstanceUID)):
                raise ValueError("an object without a UID")
        except Exception as error:
            # A parser of anything that a server says: what it raises is not a contract.
            raise SlideOpenError(f"the archive's metadata cannot be read: {error}") from error
        if wanted:
            yield data


def _not_fetched(address: str) -> None:
    """What is too large for the metadata, such as colour profiles, is not needed."""


def _touched(levels: tuple[TiledLevel, ...], grid: TileGrid, rows: Int64Array) -> list[int]:
    """The places of the encoded tiles under the tiles ``rows``, each once, in that order."""
    offsets = levels[grid.level].offsets
    return [int(offsets[number]) for number in tiles_under(levels, grid, rows)]
