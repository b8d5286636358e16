"""A slide's scale: stated by the file or the user, plausible, never overridden in silence."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.errors import ScanInputError, SlideScaleError, UsageError
from pathgene_rt.geometry import SlideInfo
from pathgene_rt.scan.input import scanned_slide
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.scale import Scale, mpp_in, settled_scale, slide_mpp
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny


@pytest.mark.parametrize(
    ("x", "y", "mpp"),
    [
        ("0.25", "0.25", 0.25),
        ("0.25", "0.254", 0.252),
        ("0.1", "0.1", 0.1),
        ("1.5", "1.5", 1.5),
        ("0", "0", None),
        ("-0.5", "0.5", None),
        ("nan", "0.5", None),
        ("inf", "inf", None),
        ("half", "0.5", None),
        (None, "0.5", None),
    ],
)
def test_what_a_file_declares(x: str | None, y: str | None, mpp: float | None) -> None:
    scale = settled_scale(x, y, None)
    assert scale.mpp == (pytest.approx(mpp) if mpp else None) and scale.warnings == ()
    filled = settled_scale(x, y, 0.4)
    assert filled == Scale(scale.mpp or 0.4)


@pytest.mark.parametrize(
    ("x", "y", "told"),
    [
        ("0.25", "0.30", r"declares 0\.25 um/px across but 0\.3 um/px down"),
        ("0.025", "0.025", r"declares 0\.025 um/px, which is no microscope's scale"),
        ("84.6667", "84.6667", r"84\.67 um/px \(300 dpi, the resolution of a printer or screen\)"),
        ("352.778", "352.778", r"352\.8 um/px \(72 dpi, "),
        ("264.583", "264.583", r"264\.6 um/px \(96 dpi, "),
        ("25400", "25400", r"2\.54e\+04 um/px, which is no microscope's"),
        ("0.5", "50", r"no microscope's"),
    ],
)
def test_what_makes_no_sense_is_refused_until_the_user_says_it(x: str, y: str, told: str) -> None:
    problem = settled_scale(x, y, None).problem
    info = SlideInfo("s", (9, 9), None, (1.0,), "test", scale_problem=problem)
    with pytest.raises(SlideScaleError, match=rf"^s: .*{told}.*; give the right ones with --mpp"):
        slide_mpp(info)
    scale = settled_scale(x, y, 0.4)
    assert scale.mpp == 0.4
    (warning,) = scale.warnings
    assert warning.startswith("the slide declares") and "0.4, was used" in warning


def test_the_first_statement_that_makes_sense_counts() -> None:
    odd = settled_scale("352.778", "352.778", None, [("0,25", "0,25")])
    assert odd.mpp == 0.25
    assert odd.warnings == (
        "the slide declares 352.8 um/px (72 dpi, the resolution of a printer or screen), which is "
        "no microscope's scale (0.1 to 1.5); elsewhere it says 0.25, which was used",
    )
    two = settled_scale("0.5", "0.5", None, [(None, None), ("0.25", "0.25")])
    assert two.mpp == 0.5 and "but 0.25 in another place" in two.warnings[0]
    assert settled_scale("0.5", "0.5", None, [("0.504", "0.504")]).warnings == ()
    assert settled_scale(None, None, None, [("0,5", "0,5")]) == Scale(0.5)


@pytest.mark.parametrize(
    ("description", "mpp"),
    [
        ("Aperio Image Library v12\n9x9 |AppMag = 20|MPP = 0.4990|Filtered = 5", "0.4990"),
        ("Motic Slide Image|AppMag = 40 |MPP = 0.257290 |Left = 1", "0.257290"),
        ("Scanner;MPP=0,2528;", "0,2528"),
        ("mpp: 0.5", "0.5"),
        ("COMPP = 3", None),
        ("|AppMag = 40|", None),
    ],
)
def test_scale_in_a_description(description: str, mpp: str | None, tmp_path: Path) -> None:
    assert mpp_in(description) == mpp
    path = tmp_path / "s.tif"
    pixels = np.zeros((64, 64, 3), np.uint8)
    for tile in ((64, 64), None):  # through OpenSlide and without it
        tifffile.imwrite(
            path,
            pixels,
            tile=tile,
            description=description,
            photometric="rgb",
            compression="jpeg" if tile else None,
            metadata=None,
        )
        with open_slide(path) as opened:
            found = opened.info.mpp
        assert found == (None if mpp is None else pytest.approx(float(mpp.replace(",", "."))))


@pytest.mark.parametrize("mpp", [0.0, -0.5, 0.025, 84.67, math.nan, math.inf])
def test_nobody_may_give_a_scale_that_is_none(slide: Path, mpp: float) -> None:
    with pytest.raises(UsageError, match=r"--mpp .* is no microscope's scale; give 0\.1 to 1\.5"):
        PredictOptions(mpp=mpp)
    with pytest.raises(UsageError, match="--mpp-override"):
        PredictOptions(mpp_override=mpp)
    with pytest.raises(UsageError, match="--mpp"):
        open_slide(slide, mpp=mpp)
    with pytest.raises(ScanInputError, match="no microscope's scale"):
        scanned_slide("scan", mpp, None)


def test_there_is_one_scale() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        PredictOptions(mpp=0.25, mpp_override=0.5)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Declares 0.5 um/px."""
    path = tmp_path_factory.mktemp("slides") / "half.svs"
    write_slide(path, (1024, 768), seed=3)
    return path


def test_mpp_fills_gaps_and_override_overrides(slide: Path) -> None:
    with open_slide(slide) as plain, open_slide(slide, mpp=0.505) as alike:
        assert plain.info.mpp == alike.info.mpp == 0.5
        assert plain.info.warnings == alike.info.warnings == ()
        overview = plain.overview(8.0)
    with open_slide(slide, mpp=0.25) as declared:
        assert declared.info.mpp == 0.5
        (warning,) = declared.info.warnings
        assert warning.startswith("the slide declares 0.5 um/px, which was used; --mpp 0.25 is for")
    with open_slide(slide, mpp_override=0.5) as same:
        assert same.info.mpp == 0.5 and same.info.warnings == ()
    with open_slide(slide, mpp_override=0.25) as overridden:
        assert overridden.info.mpp == 0.25
        assert overridden.info.warnings == (
            "the slide declares 0.5 um/px; --mpp-override 0.25 was used",
        )
        assert overridden.overview(8.0).downsample == 2 * overview.downsample
        np.testing.assert_array_equal(
            overridden.read((0, 0), 0, (64, 64)), open_slide(slide).read((0, 0), 0, (64, 64))
        )
        assert overridden.encoded_source(0) is not None


def test_the_report_says_whose_scale_it_is(slide: Path, tmp_path: Path) -> None:
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    with Predictor.open(bundle, EngineOptions(backend="onnxruntime", threads=1)) as predictor:
        plain = predictor.predict(slide)
        filled = predictor.predict(slide, PredictOptions(mpp=0.25))
        overridden = predictor.predict(slide, PredictOptions(mpp_override=0.25))
        told: list[str] = []
        predictor.extract(slide, PredictOptions(mpp_override=0.25), warn=told.append)
    assert filled.provenance.slide_mpp == 0.5 and overridden.provenance.slide_mpp == 0.25
    assert not any("mpp" in warning for warning in plain.warnings)
    assert "--mpp 0.25 is for slides that do not say it" in filled.warnings[0]
    assert overridden.warnings[0] == told[0]
    assert told[0] == "the slide declares 0.5 um/px; --mpp-override 0.25 was used"
    assert filled.provenance.tiles == plain.provenance.tiles
    assert overridden.provenance.tiles < plain.provenance.tiles


@pytest.mark.parametrize(("dpi", "um"), [(300, "84.67"), (96, "264.6"), (72, "352.8")])
def test_a_tiff_of_an_image_editor(tmp_path: Path, dpi: int, um: str) -> None:
    path = tmp_path / "edited.tif"
    pixels = np.full((512, 512, 3), 200, np.uint8)
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        compression="jpeg",
        photometric="rgb",
        metadata=None,
        resolution=(dpi, dpi),
        resolutionunit="INCH",
    )
    with (
        open_slide(path) as slide,
        pytest.raises(SlideScaleError, match=rf"{um} um/px \({dpi} dpi.*--mpp 0\.25"),
    ):
        slide.overview(8.0)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.info.mpp == 0.5
        assert f"{dpi} dpi" in slide.info.warnings[0]
