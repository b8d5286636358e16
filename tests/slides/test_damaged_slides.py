"""Slide files with damaged tiles, and files that change while they are read, through a bundle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pathgene_rt import PredictOptions, Predictor
from pathgene_rt.errors import SlideReadError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.slides import open_slide
from pathgene_rt.slides.registry import BUILT_IN_READERS
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny

SIDE_PX = 4096
STORED_PX = 256
MPP = 1.0
"""Of the tiles, twice the slide's: a quarter as many."""
TILES_A_STORED = (STORED_PX // (2 * tiny.TILE_PX)) ** 2


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "sound.svs"
    write_slide(path, (SIDE_PX, SIDE_PX), seed=4)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt", mpp=MPP)


@pytest.fixture(scope="module")
def predictor(bundle: Path):
    with Predictor.open(bundle) as opened:
        yield opened


READERS = [reader for reader in BUILT_IN_READERS if reader.name in ("tiff", "openslide")]
"""Of this file's format."""


@pytest.fixture(params=READERS, ids=lambda reader: reader.name)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each reader alone, as for a file that the ones before it leave to it."""
    monkeypatch.setattr("pathgene_rt.slides.opening.BUILT_IN_READERS", (request.param,))
    return request.param.name


def damage(sound: Path, path: Path, stored: list[tuple[int, int]]) -> Path:
    """A copy whose stored level-0 tiles at (column, row) are no JPEG streams any more."""
    shutil.copy(sound, path)
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts
    with path.open("r+b") as file:
        for column, row in stored:
            number = row * (SIDE_PX // STORED_PX) + column
            file.seek(offsets[number])
            file.write(bytes(counts[number]))
    return path


@pytest.fixture(scope="module")
def bags() -> dict[str, FeatureBag]:
    """Of the sound slide, by reader."""
    return {}


@pytest.fixture
def reference(
    predictor: Predictor, sound: Path, reader: str, bags: dict[str, FeatureBag]
) -> FeatureBag:
    """Of the sound slide, as ``reader`` reads it."""
    if reader not in bags:
        bags[reader], _ = predictor.extract(sound)
    return bags[reader]


def in_tissue(bag: FeatureBag) -> list[tuple[int, int]]:
    """The (column, row) of encoded tiles that lie in tissue as a whole."""
    stored, counts = np.unique(bag.xy // STORED_PX, axis=0, return_counts=True)
    return [(int(c), int(r)) for c, r in stored[counts == TILES_A_STORED]]


def test_a_damaged_stored_tile_is_white_counted_and_told(
    predictor: Predictor, sound: Path, tmp_path: Path, reference: FeatureBag
) -> None:
    column, row = in_tissue(reference)[20]
    path = damage(sound, tmp_path / "damaged.svs", [(column, row)])
    options = PredictOptions(heatmaps=False, geojson=False, html=False)
    report = predictor.predict(path, options, out=tmp_path / "out")
    assert report.quality["damaged_tiles"] == TILES_A_STORED
    tiles = report.provenance.tiles
    (warning,) = (line for line in report.warnings if "damaged" in line)
    assert f"{TILES_A_STORED} of {tiles} tiles" in warning
    assert f"x {column * STORED_PX} y {row * STORED_PX}" in warning
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert warning in document["warnings"]
    told: list[str] = []
    found, _ = predictor.extract(path, warn=told.append)
    assert told == [warning]
    np.testing.assert_array_equal(found.xy, reference.xy)
    inside = (reference.xy // STORED_PX == (column, row)).all(axis=1)
    assert inside.sum() == TILES_A_STORED
    np.testing.assert_array_equal(found.features[~inside], reference.features[~inside])
    white = np.full((1, tiny.TILE_PX, tiny.TILE_PX, 3), 255, np.uint8)
    expected = tiny.encode(white, tiny.encoder_weights())
    np.testing.assert_allclose(
        found.features[inside], np.tile(expected, (TILES_A_STORED, 1)), atol=1e-5
    )


def test_many_damaged_tiles_are_an_error(
    predictor: Predictor, sound: Path, tmp_path: Path, reference: FeatureBag
) -> None:
    path = damage(sound, tmp_path / "damaged.svs", in_tissue(reference)[10:20])
    with pytest.raises(SlideReadError, match=r"\d+ of its \d+ tissue tiles cannot be decoded"):
        predictor.predict(path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_overview_survives_damage(sound: Path, tmp_path: Path, reader: str) -> None:
    """At 1 um/px it is made of level 0: what is damaged there looks like what is around it."""
    with open_slide(sound) as slide:
        reference = slide.overview(1.0).rgb
    stored = [(7, 7), (15, 15)]
    with open_slide(damage(sound, tmp_path / "damaged.svs", stored)) as slide:
        rgb = slide.overview(1.0).rgb
    assert rgb.shape == reference.shape
    scale = SIDE_PX // rgb.shape[0]
    side = STORED_PX // scale
    changed = (rgb != reference).any(axis=2)
    assert 0 < changed.sum() < 2 * (3 * side) ** 2
    for column, row in stored:
        changed[(row - 1) * side : (row + 2) * side, (column - 1) * side : (column + 2) * side] = 0
        place = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
        np.testing.assert_allclose(
            rgb[place].mean(axis=(0, 1)), reference[place].mean(axis=(0, 1)), atol=25
        )
    assert not changed.any()


def test_an_overview_of_nothing_but_damage_is_an_error(
    sound: Path, tmp_path: Path, reader: str
) -> None:
    everywhere = [(column, row) for column in range(16) for row in range(16)]
    with (
        open_slide(damage(sound, tmp_path / "damaged.svs", everywhere)) as slide,
        pytest.raises(SlideReadError, match="cannot be"),
    ):
        slide.overview(1.0)


def test_a_file_cut_short_while_it_is_read(
    predictor: Predictor, sound: Path, tmp_path: Path, reader: str
) -> None:
    path = tmp_path / "cut.svs"
    shutil.copy(sound, path)

    def cut(done: int, total: int) -> None:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 4)

    with pytest.raises(SlideReadError) as raised:
        predictor.predict(path, progress=cut)
    assert raised.value.exit_code == 3 and "\n" not in str(raised.value)
    bag, _ = predictor.extract(sound)
    assert len(bag) > 250


def test_a_file_that_vanishes_is_read_to_the_end_or_an_error(
    predictor: Predictor, sound: Path, tmp_path: Path, reference: FeatureBag
) -> None:
    """What is open can be read on where the system lets it vanish at all."""
    path = tmp_path / "gone.svs"
    shutil.copy(sound, path)
    gone = []

    def remove(done: int, total: int) -> None:
        if not gone:
            try:
                path.unlink()
            except PermissionError:
                pytest.skip("this system keeps open files")
            gone.append(done)

    try:
        report = predictor.predict(path, progress=remove)
    except SlideReadError as error:
        assert "gone" in str(error)
    else:
        assert report.provenance.tiles == len(reference)


def test_the_other_slides_of_a_batch_go_on(
    predictor: Predictor, bundle: Path, sound: Path, tmp_path: Path
) -> None:
    bad = damage(sound, tmp_path / "bad.svs", in_tissue(predictor.extract(sound)[0])[10:20])
    command = [sys.executable, "-m", "pathgene_rt.cli", "predict", bad, sound, "--bundle", bundle]
    options = ["--out", tmp_path / "out", "--json", "--io-timeout", "30", "--exact"]
    small = ["--no-heatmaps", "--no-geojson"]
    finished = subprocess.run(
        [*command, *options, *small], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 7, finished.stderr
    rows = json.loads(finished.stdout)["slides"]
    assert [row["status"] for row in rows] == ["failed", "done"]
    assert rows[0]["exit_code"] == 3 and "tissue tiles cannot be decoded" in rows[0]["reason"]
