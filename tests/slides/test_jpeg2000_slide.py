"""A JPEG 2000 slide at 40x with a scanner's own half-size level, as TCGA has: features are those of
the finer level, read by OpenSlide and reduced by Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, ImageFilter

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.engines.qualify.compare import fidelity_error
from pathgene_rt.export.golden import level_warnings
from pathgene_rt.geometry import Float32Array, UInt8Array
from pathgene_rt.slides import open_slide
from pathgene_rt.tiles.grid import plan_scale
from tests.support import tiny_models as tiny

imagecodecs = pytest.importorskip("imagecodecs", reason="needs the extra jpeg2000")

YCBCR, RGB = 33003, 33005
TILE = 240


def encoded(picture: UInt8Array, compression: int) -> Iterator[bytes]:
    if compression == YCBCR:
        picture = np.asarray(Image.fromarray(picture).convert("YCbCr"))
    for top in range(0, picture.shape[0], TILE):
        for left in range(0, picture.shape[1], TILE):
            tile = np.full((TILE, TILE, 3), 255, np.uint8)
            part = picture[top : top + TILE, left : left + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            yield imagecodecs.jpeg2k_encode(tile, level=38, codecformat="j2k", mct=False)


@pytest.fixture(scope="module", params=[YCBCR, RGB], ids=["YCbCr", "RGB"])
def slide(
    request: pytest.FixtureRequest, cmu_slide: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """1440 x 1203 px of real tissue, called 0.25 um/px, and a level of 719 x 601 px that another
    filter made."""
    with openslide.OpenSlide(cmu_slide) as source:
        whole = source.read_region((300, 900), 0, (1440, 1203)).convert("RGB")
    half = whole.filter(ImageFilter.GaussianBlur(1.2)).resize((719, 601), Image.Resampling.BICUBIC)
    path = tmp_path_factory.mktemp("jpeg2000") / f"{request.param}.svs"
    with tifffile.TiffWriter(path) as tiff:
        for level in (whole, half):
            tiff.write(
                encoded(np.asarray(level), request.param),
                shape=(level.height, level.width, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                compression=request.param,
                photometric="rgb",
                subfiletype=int(level is half),
                description="Aperio Image Library v10\nJPEG 2000|AppMag = 40|MPP = 0.25",
                metadata=None,
            )
    return path


def test_features_are_those_of_the_finer_level(slide: Path, tmp_path: Path) -> None:
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    with Predictor.open(bundle, EngineOptions(backend="onnxruntime", threads=1)) as predictor:
        bag, _ = predictor.extract(slide, PredictOptions())
    assert len(bag) >= 48 and bag.span_px == 2 * tiny.TILE_PX
    with openslide.OpenSlide(slide) as plain:
        assert plain.level_count == 2
        assert 2 < plain.level_downsamples[1] < 2.01
        tiles, coarse = [], []
        for x, y in bag.xy.tolist():
            read = plain.read_region((x, y), 0, (2 * tiny.TILE_PX,) * 2)
            white = Image.new("RGBA", read.size, (255, 255, 255, 255))
            whole = Image.alpha_composite(white, read).convert("RGB")
            tiles.append(np.asarray(whole.reduce(2)))
            half = plain.read_region((x, y), 1, (tiny.TILE_PX,) * 2).convert("RGB")
            coarse.append(np.asarray(half))
    weights = tiny.encoder_weights()
    reference = tiny.encode(np.stack(tiles), weights)
    error = fidelity_error(bag.features, reference)
    assert error.median < 0.002 and error.maximum < 0.004
    # The scanner's own level is so far from it that reading it would show.
    assert fidelity_error(tiny.encode(np.stack(coarse), weights), reference).median > 0.002


def test_export_says_what_the_scanners_own_level_costs(slide: Path) -> None:
    weights = tiny.encoder_weights()
    preprocess = Preprocess(tile_px=tiny.TILE_PX, resize_px=48, level_rule="nearest")

    def encode(tiles: UInt8Array) -> Float32Array:
        """Of how sharp tiles are, which means alone do not see."""
        edges = np.abs(np.gradient(tiles.astype(np.float32), axis=2))
        return tiny.encode(np.clip(8 * edges, 0, 255).astype(np.uint8), weights)

    (told,) = level_warnings(encode, [slide], preprocess)
    assert "e 0." in told and "on 48 tiles" in told
    alike = replace(preprocess, level_rule="finer")
    assert level_warnings(encode, [slide], alike) == level_warnings(encode, [], preprocess) == ()


def test_pixels_are_openslides_to_the_bit(slide: Path) -> None:
    with openslide.OpenSlide(slide) as plain, open_slide(slide, None) as ours:
        assert "imagecodecs" in ours.reader or "jpeg2000" in ours.reader.lower()
        assert plan_scale(ours.info, Preprocess()).level == 0
        for corner in ((0, 0), (480, 240), (713, 391)):
            theirs = np.asarray(plain.read_region(corner, 0, (512, 512)).convert("RGB"))
            assert np.array_equal(ours.read(corner, 0, (512, 512)), theirs)
