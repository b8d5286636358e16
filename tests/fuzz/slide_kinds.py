"""Slides of every format that is read here."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np

from pathgene_rt import errors
from pathgene_rt.slides import isolated_slide
from tests.fuzz.kind import FindingError, Kind, write
from tests.fuzz.layouts import fields_changed, isyntax_changed, kfb_fields, tmap_fields
from tests.fuzz.mutate import bytes_changed
from tests.fuzz.tiff import stream_changed, tiff_changed
from tests.support.czi_slides import write_czi
from tests.support.isyntax_slides import write_isyntax
from tests.support.kfb_slides import write_kfb
from tests.support.slide_corpus import pyramid, samples
from tests.support.tmap_slides import write_tmap, write_tmap_06

SHARED = Path(__file__).resolve().parents[3] / "shared"


class Slides(Kind):
    """TIFF slides: of Aperio's kind as JPEG and JPEG 2000, generic ones, classic and BigTIFF."""

    name = "slides"

    def prepare(self) -> None:
        import tifffile

        pixels = np.random.default_rng(0).integers(0, 255, (256, 320, 3), np.uint8)
        pixels[:, 160:] = 240
        aperio = "Aperio Image Library v1\n320x256 (256x256) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"
        self._bases = []
        for number, (options, description) in enumerate(
            (
                ({"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)}, aperio),
                ({"compression": "jpeg", "photometric": "rgb"}, aperio),
                ({"compression": "jpeg", "photometric": "ycbcr", "bigtiff": True}, "generic"),
                ({"compression": "zlib", "photometric": "rgb", "byteorder": ">"}, "generic"),
                ({"compression": 33005, "photometric": "rgb"}, aperio),
            )
        ):
            path = self.folder / f"base{number}.tif"
            kind = {k: options.pop(k) for k in ("bigtiff", "byteorder") if k in options}
            compression = options.pop("compression")
            data: Any = options
            if compression == 33005:
                import imagecodecs

                def tiles(image: Any) -> Any:
                    for top in range(0, image.shape[0], 64):
                        for left in range(0, image.shape[1], 64):
                            tile = np.ascontiguousarray(image[top : top + 64, left : left + 64])
                            yield imagecodecs.jpeg2k_encode(tile, level=30, codecformat="j2k")

            with tifffile.TiffWriter(path, **kind) as tiff:
                for step in (1, 4):
                    level = np.ascontiguousarray(pixels[::step, ::step])
                    source: Any = level
                    if compression == 33005:
                        source, data = tiles(level), {**options, "shape": level.shape}
                        data["dtype"] = np.uint8
                    tiff.write(
                        source,
                        tile=(64, 64),
                        compression=compression,
                        description=description,
                        subfiletype=int(step > 1),
                        metadata=None,
                        **data,
                    )
            self._bases.append(path.read_bytes())

    def make(self, rng: random.Random) -> Path:
        return write(self.folder / "case.svs", tiff_changed(rng, rng.choice(self._bases)))

    def read(self, path: Path, rng: random.Random) -> None:
        read_here(path, rng)


def read_slide(path: Path) -> None:
    """What a prediction does with a slide, but for the encoder."""
    from pathgene_rt.slides import open_slide

    with open_slide(path, 0.5) as slide:
        _read_all(slide)


_READ_APART = 0.02
"""Of what a prediction reads in a process of its own, which takes as long as a hundred cases."""
_CHILD_S = 5
"""A child that takes longer is ended."""


def read_here(path: Path, rng: random.Random) -> None:
    """Like :func:`read_slide`, but for most of what is read apart: that cannot end this process."""
    from pathgene_rt.slides.opening import open_here

    slide, _ = open_here(path, 0.5)
    if slide is None:
        raise errors.SlideOpenError(f"{path}: no reader takes it")
    with slide:
        is_odd = getattr(slide, "is_odd", False)
        if not is_odd:
            _read_all(slide)
    if is_odd and rng.random() < _READ_APART:
        read_slide(path)


def read_in_child(path: Path, rng: random.Random) -> None:
    """Like :func:`read_slide`, of kinds whose libraries are known to crash: in a child of this
    process, or now and then in the product's own, which takes as long as a hundred cases. A child
    that crashes or stands still costs its slide, which is no finding."""
    if rng.random() < _READ_APART:
        isolated_slide.ANSWER_S = 60.0  # the product waits longer than whoever watches this
        read_slide(path)
        return
    ours, its = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        _tell_what_became(path, rng, its)
    os.close(its)
    with os.fdopen(ours, "rb") as answers:
        told = answers.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise errors.SlideReadError(f"crashed ({signal.Signals(os.WTERMSIG(status)).name})")
    kind, said = json.loads(told)
    if kind is None:
        return
    failure = getattr(errors, kind, None)
    raise FindingError(said) if failure is None else failure(said)


def _tell_what_became(path: Path, rng: random.Random, pipe: int) -> NoReturn:
    """In the child: the name and words of an error, or None, as JSON."""
    signal.alarm(_CHILD_S)  # which ends the process
    told: tuple[str | None, str] = (None, "")
    try:
        read_here(path, rng)
    except errors.PathGeneError as error:
        told = (type(error).__name__, str(error))
    except BaseException as error:  # noqa: BLE001 - told, not raised beyond the fork
        told = ("", f"foreign exception {type(error).__name__}: {error}")
    os.write(pipe, json.dumps(told).encode())
    os._exit(0)


def _read_all(slide: Any) -> None:
    for level, downsample in enumerate(slide.info.downsamples):
        for x, y in ((0, 0), (100, 60)):
            corner = (round(x * downsample), round(y * downsample))
            with contextlib.suppress(errors.TileDecodeError):
                slide.read(corner, level, (128, 96))
                slide.read(corner, level, (128, 96), shrink=2, approximate=True)
        if (source := slide.encoded_source(level)) is not None:
            with contextlib.suppress(errors.TileDecodeError):
                source.region((0, 0), 64)
    slide.overview(8.0)


class Tiffs(Kind):
    """OME-TIFF, and TIFFs that OpenSlide does not know, in every compression."""

    name = "tiffs"
    _FAMILIES: ClassVar[tuple[str, ...]] = ("OME-TIFF", "TIFF")

    def prepare(self) -> None:
        self._bases = list(_corpus(self.folder, self._FAMILIES))

    def make(self, rng: random.Random) -> Path:
        data = rng.choice(self._bases)
        at, end = data.find(b"<OME"), data.find(b"</OME>")
        if 0 <= at < end and rng.random() < 0.2:
            data = data[:at] + bytes_changed(rng, data[at:end]) + data[end:]
        return write(self.folder / "case.tif", tiff_changed(rng, data))

    def read(self, path: Path, rng: random.Random) -> None:
        read_here(path, rng)


class Dicom(Kind):
    """DICOM slides, element by element as far as lengths go, and their streams."""

    name = "dicom"

    def prepare(self) -> None:
        self._bases = list(_corpus(self.folder, ("DICOM",)))
        source = SHARED / "slides" / "boxes_0.dcm"
        self._bases += [source.read_bytes()] if source.is_file() else []

    def make(self, rng: random.Random) -> Path:
        data = rng.choice(self._bases)
        if rng.random() < 0.3:
            data = stream_changed(rng, data)
        return write(self.folder / "case.dcm", bytes_changed(rng, data, near=2048))

    def read(self, path: Path, rng: random.Random) -> None:
        read_here(path, rng)


class Czi(Kind):
    """CZI slides that Zeiss's library reads here: with focal planes, in zstd, uncompressed."""

    name = "czi"

    def prepare(self) -> None:
        super().prepare()
        pixels = pyramid()[0][:200, :300]
        self._bases = [
            write_czi(self.folder / "base.czi", planes, compression).read_bytes()
            for planes in ([pixels], [pixels] * 3)
            for compression in ("uncompressed:", "zstd0:", "zstd1:ExplicitLevel=2")
        ]

    def make(self, rng: random.Random) -> Path:
        data = rng.choice(self._bases)
        return write(self.folder / "case.czi", bytes_changed(rng, data, near=4096))

    def read(self, path: Path, rng: random.Random) -> None:
        read_in_child(path, rng)


class Kfb(Kind):
    """KFB slides: fields of the header and of the index, and the streams of tiles."""

    name = "kfb"

    def prepare(self) -> None:
        super().prepare()
        levels = [pyramid()[0][:200, :300], pyramid()[1][:100, :150]]
        self._bases = [
            write_kfb(self.folder, levels, **ways).read_bytes()
            for ways in ({}, {"wide": True}, {"missing": frozenset({1, 4})})
        ]

    def make(self, rng: random.Random) -> Path:
        data = rng.choice(self._bases)
        return write(self.folder / "case.kfb", fields_changed(rng, data, kfb_fields(data)))

    def read(self, path: Path, rng: random.Random) -> None:
        read_here(path, rng)


class Tmap(Kind):
    """TMAP slides of both versions: fields of headers and tables, and the streams of tiles."""

    name = "tmap"

    def prepare(self) -> None:
        super().prepare()
        levels = [pyramid()[0][:200, :300], pyramid()[1][:100, :150]]
        square = np.ascontiguousarray(np.resize(pyramid()[0], (512, 512, 3)))
        self._bases = [write_tmap(self.folder, levels).read_bytes()]
        self._bases.append(write_tmap_06(self.folder, square).read_bytes())

    def make(self, rng: random.Random) -> Path:
        data = rng.choice(self._bases)
        return write(self.folder / "case.tmap", fields_changed(rng, data, tmap_fields(data)))

    def read(self, path: Path, rng: random.Random) -> None:
        read_here(path, rng)
        if rng.random() < _READ_APART:
            read_slide(path)


class ISyntax(Kind):
    """iSyntax slides: elements of the header, its table of blocks, their places, and blocks."""

    name = "isyntax"

    def prepare(self) -> None:
        super().prepare()
        path = self.folder / "base.isyntax"
        self._base = write_isyntax(path, [[(200, 100, 40), (40, 80, 120)]]).read_bytes()

    def make(self, rng: random.Random) -> Path:
        return write(self.folder / "case.isyntax", isyntax_changed(rng, self._base))

    def read(self, path: Path, rng: random.Random) -> None:
        read_in_child(path, rng)


def _corpus(folder: Path, families: tuple[str, ...]) -> Iterator[bytes]:
    """A third of the slides of ``families``, each in one file."""
    levels = [np.ascontiguousarray(one[:200, :240]) for one in pyramid()]
    chosen = [one for one in samples() if one.name.split()[0] in families]
    for number, sample in enumerate(chosen[::3]):
        place = folder / f"base{number}"
        place.mkdir(exist_ok=True)
        yield sample.write(place, levels).read_bytes()
        shutil.rmtree(place)
