"""Tiles that other tools chose: whose they are, at which scale, and where their files lie."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.cli.main import app
from pathgene_rt.errors import FeatureFileError, NoTissueError, SlideScaleError, UsageError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.hdf5 import write_features
from pathgene_rt.geometry import SlideInfo
from pathgene_rt.tiles.external_coords import (
    check_coords,
    coords_of_slide,
    grid_from_coords,
    scale_warnings,
)
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny

APERIO_40X = (1.0, 4.0, 16.0)


def info_of(
    mpp: float | None = 0.5,
    size_px: tuple[int, int] = (10_000, 8_000),
    downsamples: tuple[float, ...] = (1.0,),
) -> SlideInfo:
    return SlideInfo("s", size_px, mpp, downsamples, "test")


def write_coords(path: Path, coords: object, **attributes: object) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_dataset("coords", data=coords)
        for name, value in attributes.items():
            data.attrs[name] = value
    return path


CORNERS = np.array([[512, 0], [0, 512], [0, 0], [7168, 5120]], dtype=np.int64)
SORTED = [[0, 0], [512, 0], [0, 512], [7168, 5120]]


def test_coordinates_of_clam(tmp_path: Path) -> None:
    info = info_of(0.25, downsamples=(1.0, 2.0))
    path = write_coords(
        tmp_path / "c.h5", CORNERS, patch_size=256, patch_level=1, downsample=(2.0, 2.0), name="s"
    )
    grid = grid_from_coords(info, Preprocess(), path)
    np.testing.assert_array_equal(grid.xy, SORTED)
    assert (grid.level, grid.read_px, grid.span_px, grid.mpp) == (1, 256, 512.0, 0.5)
    assert (grid.tissue == 1).all()
    at_level_0 = write_coords(tmp_path / "0.h5", CORNERS, patch_size=512, patch_level=0)
    grid = grid_from_coords(info_of(0.25), Preprocess(), at_level_0)
    assert (grid.level, grid.read_px) == (0, 512)


def test_coordinates_of_trident(tmp_path: Path) -> None:
    info = info_of(0.2527, downsamples=APERIO_40X)
    path = write_coords(
        tmp_path / "t.h5",
        CORNERS,
        patch_size=256,
        patch_size_level0=507,
        level0_magnification=40,
        target_magnification=20,
        overlap=0,
        level0_width=10_000,
        level0_height=8_000,
    )
    grid = grid_from_coords(info, Preprocess(), path)
    assert (grid.level, grid.read_px, grid.span_px) == (0, 507, 507.0)
    assert grid.mpp == pytest.approx(0.2527 * 507 / 256)
    np.testing.assert_array_equal(grid.xy, SORTED)
    with pytest.raises(SlideScaleError, match="refuses to resample"):
        grid_from_coords(info, Preprocess(scale_policy="refuse"), path)
    with pytest.raises(FeatureFileError, match="another slide"):
        grid_from_coords(info_of(0.2527, (9_000, 8_000)), Preprocess(), path)


def by_magnification(path: Path, span_px: int = 512, **changes: object) -> Path:
    stated = {"patch_size": 256, "patch_size_level0": span_px, "level0_magnification": 40}
    return write_coords(path, CORNERS, **{**stated, "target_magnification": 20, **changes})


def test_tiles_that_trident_chose_by_magnification_are_taken_and_told(tmp_path: Path) -> None:
    """Of a scanner whose 40x is 0.2639 um/px: 5.5 % from the model's scale."""
    path = by_magnification(tmp_path / "c.h5")
    grid = grid_from_coords(info_of(0.263852), Preprocess(), path)
    assert (grid.read_px, grid.span_px) == (512, 512.0)
    assert grid.mpp == pytest.approx(0.527704)
    (told,) = scale_warnings(grid, Preprocess())
    assert "0.5277 um/px, +5.5% from the model's 0.5" in told
    assert scale_warnings(grid_from_coords(info_of(0.25), Preprocess(), path), Preprocess()) == ()


@pytest.mark.parametrize(
    ("mpp", "changes", "preprocess"),
    [
        (0.29, {}, {}),  # 16 % off: no scanner's 40x
        (0.263852, {"span_px": 520}, {}),  # not by magnification
        (0.263852, {"target_magnification": 10}, {}),
        (0.263852, {}, {"scale_policy": "refuse"}),
        (0.263852, {"patch_size": 512, "target_magnification": 40}, {"mpp": 0.25}),
    ],
)
def test_tiles_of_another_scale_are_not_taken_for_it(
    tmp_path: Path, mpp: float, changes: dict, preprocess: dict
) -> None:
    path = by_magnification(tmp_path / "c.h5", **changes)
    with pytest.raises(SlideScaleError, match="leave out --coords"):
        grid_from_coords(info_of(mpp), Preprocess(**preprocess), path)


def test_coordinates_of_our_own_features(tmp_path: Path) -> None:
    info = info_of(0.25, downsamples=(1.0, 2.001))
    features = np.ones((4, 3), np.float32)
    bag = FeatureBag("s", features, np.array(SORTED, np.int32), 256, 0.5, 512.256, "0" * 64)
    write_features(tmp_path / "s.h5", bag)
    grid = grid_from_coords(info, Preprocess(), tmp_path / "s.h5")
    assert grid.span_px == 512.256  # not CLAM's patch_size, which is a whole number
    np.testing.assert_array_equal(grid.xy, SORTED)


def test_coordinates_of_another_scale(tmp_path: Path) -> None:
    path = write_coords(tmp_path / "c.h5", CORNERS, patch_size=256, patch_level=0, downsample=1.0)
    with pytest.raises(SlideScaleError, match=r"0\.25 um/px at 256 px.*needs 0\.5.*128 um"):
        grid_from_coords(info_of(0.25), Preprocess(), path)
    with pytest.raises(SlideScaleError, match="--mpp"):
        grid_from_coords(info_of(None), Preprocess(), path)


def test_coordinates_files_that_are_none(tmp_path: Path) -> None:
    info = info_of()
    sized = {"patch_size": 256, "patch_level": 0}
    text = tmp_path / "x.h5"
    text.write_text("text")
    no_coords = tmp_path / "y.h5"
    with h5py.File(no_coords, "w") as file:
        file["other"] = 1
    cases = {
        tmp_path / "none.h5": "no such file",
        text: "cannot be read",
        no_coords: "no dataset 'coords'",
        write_coords(tmp_path / "1.h5", CORNERS[:, 0], **sized): r"\[4\]",
        write_coords(tmp_path / "2.h5", np.array([[b"a", b"b"]]), **sized): "not numbers",
        write_coords(tmp_path / "3.h5", CORNERS): "patch_level",
        write_coords(tmp_path / "4.h5", CORNERS, patch_level=0): "'patch_size'",
        write_coords(tmp_path / "5.h5", CORNERS, patch_size=0, patch_level=0): "not above 0",
        write_coords(tmp_path / "6.h5", CORNERS, patch_size="large", patch_level=0): "no number",
        write_coords(tmp_path / "7.h5", CORNERS, patch_size=256, patch_level=3): "another slide",
        write_coords(tmp_path / "8.h5", CORNERS * 2, **sized): r"\(14336, 10240\) lies outside",
        write_coords(tmp_path / "9.h5", -CORNERS, **sized): "lies outside",
        write_coords(tmp_path / "a.h5", CORNERS, **sized, downsample=4.0): "another slide",
        write_coords(tmp_path / "b.h5", CORNERS * np.nan, **sized): "lies outside",
    }
    for path, words in cases.items():
        with pytest.raises(FeatureFileError, match=words) as caught:
            grid_from_coords(info, Preprocess(), path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    nothing = write_coords(tmp_path / "n.h5", np.zeros((0, 2), dtype=int), **sized)
    with pytest.raises(NoTissueError, match="no tile"):
        grid_from_coords(info, Preprocess(), nothing)


@pytest.mark.parametrize(
    "stated",
    [
        {"name": "s"},
        {"name": "S"},
        {"name": "s.svs"},
        {"name": "/data/slides/s"},
        {"level_dim": (2500, 2000)},
        {"level_dim": (2499, 2001), "downsample": (4.0, 4.0)},
        {"name": b"s", "level0_width": 10_000, "level0_height": 8_000},
    ],
)
def test_coordinates_that_say_they_are_this_slides(tmp_path: Path, stated: dict) -> None:
    path = write_coords(tmp_path / "c.h5", CORNERS, patch_size=128, patch_level=1, **stated)
    info = info_of(0.25, downsamples=APERIO_40X)
    grid = grid_from_coords(info, Preprocess(), path, {"s.svs"})
    np.testing.assert_array_equal(grid.xy, SORTED)


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"name": "TCGA-05-4244"}, "its tiles are of 'TCGA-05-4244', not 's'"),
        ({"name": "s.2"}, r"of 's\.2', not 's'"),
        ({"level_dim": (2600, 2000)}, "level 1 has 2600 x 2000 px, that of s 2500 x 2000"),
        ({"level0_width": 10_000, "level0_height": 8_001}, "level 0 has 10000 x 8001 px"),
    ],
)
def test_coordinates_of_another_slide(tmp_path: Path, stated: dict, told: str) -> None:
    path = write_coords(tmp_path / "c.h5", CORNERS, patch_size=128, patch_level=1, **stated)
    with pytest.raises(FeatureFileError, match=rf"c\.h5: .*{told}.*belong to another slide"):
        grid_from_coords(info_of(0.25, downsamples=APERIO_40X), Preprocess(), path, {"s.svs"})


@pytest.mark.parametrize(
    "place",
    [
        "a.h5",
        "patches/a.h5",
        "a_patches.h5",
        "patches/a_patches.h5",
        "20x_256px_0px_overlap/patches/a_patches.h5",
    ],
)
def test_a_folder_has_each_slides_file_where_clam_and_trident_put_it(
    tmp_path: Path, place: str
) -> None:
    for name in (place, place.replace("a", "b", 1) if place.startswith("a") else "other/b.h5"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert coords_of_slide(tmp_path, Path("slides/a.svs")) == tmp_path / place
    assert coords_of_slide(tmp_path / place, Path("c.svs")) == tmp_path / place


def test_a_folder_without_the_slides_file_or_with_two(tmp_path: Path) -> None:
    slide = Path("case [7].1.svs")
    with pytest.raises(FeatureFileError, match=r"no coordinates in .*case \[7\]\.1_patches\.h5"):
        coords_of_slide(tmp_path, slide)
    for scale in ("20x", "10x"):
        (tmp_path / scale / "patches").mkdir(parents=True)
        (tmp_path / scale / "patches" / "case [7].1_patches.h5").touch()
    with pytest.raises(FeatureFileError, match=r"2 files .*10x/patches/.*give the folder of one"):
        coords_of_slide(tmp_path, slide)
    assert coords_of_slide(tmp_path / "20x", slide).parts[-3] == "20x"


def test_one_file_is_not_for_several_slides(tmp_path: Path) -> None:
    file = tmp_path / "c.h5"
    file.touch()
    check_coords(None, 9)
    check_coords(file, 1)
    check_coords(tmp_path, 9)
    with pytest.raises(UsageError, match=r"is one file for 2 slides; give the folder"):
        check_coords(file, 2)


def test_each_slide_of_a_batch_gets_its_own_tiles(tmp_path: Path) -> None:
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    coords = tmp_path / "clam" / "patches"
    coords.mkdir(parents=True)
    (tmp_path / "slides").mkdir()
    for number, name in enumerate(("a", "b")):
        write_slide(tmp_path / "slides" / f"{name}.svs", (1024, 768), seed=number)
        write_coords(
            coords / f"{name}.h5",
            np.array([[0, 0], [64, 64 * (number + 1)]]),
            patch_size=tiny.TILE_PX,
            patch_level=0,
            level_dim=(1024, 768),
            name=name,
        )
    command = ["extract", str(tmp_path / "slides"), "--bundle", str(bundle), "--engine"]
    command += ["onnxruntime", "--out", str(tmp_path / "out"), "--quiet", "--coords"]
    result = CliRunner().invoke(app, [*command, str(coords / "a.h5")])
    assert isinstance(result.exception, UsageError)
    result = CliRunner().invoke(app, [*command, str(tmp_path / "clam")])
    assert result.exit_code == 0, result.output
    for number, name in enumerate(("a", "b")):
        with h5py.File(tmp_path / "out" / f"{name}.h5") as file:
            assert file["coords"][:].tolist() == [[0, 0], [64, 64 * (number + 1)]]
    with (
        Predictor.open(bundle, EngineOptions(backend="onnxruntime", threads=1)) as predictor,
        pytest.raises(FeatureFileError, match="its tiles are of 'a', not 'b'"),
    ):
        predictor.extract(tmp_path / "slides" / "b.svs", PredictOptions(coords=coords / "a.h5"))
