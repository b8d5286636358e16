"""Slides that a shared library reads (``pgrt_reader``), compiled here: right pixels, what it may do
wrong, and that a crash of it costs its slide alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pathgene_rt.cli.main import app
from pathgene_rt.errors import SlideOpenError, SlideReadError, TileDecodeError, UsageError
from pathgene_rt.slides import (
    add_reader_library,
    find_slides,
    native_reader,
    native_slide,
    open_slide,
    reader_libraries,
)
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.native_readers import ACME, EXAMPLE, compiled, write_acme
from tests.support.plug_ins import forget_plug_ins

SIDE_PX = 320


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readers")
    compiled(ACME, folder / "tiles.so")
    compiled(ACME, folder / "regions.so", "-DREGIONS")
    return folder


@pytest.fixture
def tiles(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The reader of tiles is one of the environment's."""
    monkeypatch.setenv(reader_libraries.VARIABLE, str(libraries / "tiles.so"))
    forget_plug_ins()
    yield
    forget_plug_ins()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    ramp = np.arange(SIDE_PX, dtype=np.uint8)
    red, green = np.meshgrid(ramp, ramp)
    return np.stack([red, green, 255 - red // 2], axis=-1)


@pytest.mark.parametrize(("library", "letter"), [("tiles.so", "T"), ("regions.so", "R")])
def test_pixels_are_the_librarys(
    libraries: Path, tmp_path: Path, pixels: np.ndarray, library: str, letter: str
) -> None:
    path = tmp_path / "slide.acme"
    seen = write_acme(path, letter, pixels)
    reader = native_reader(libraries / library)
    assert reader.suffixes == {".acme"} and reader.matches(path, path.read_bytes()[:64])
    slide = reader.open(path, None)
    assert slide is not None
    with slide:
        assert slide.info.size_px == (SIDE_PX, SIDE_PX) and slide.info.mpp == 0.5
        assert slide.info.vendor == "acme" and slide.info.warnings == ("made for a test",)
        assert slide.reader.startswith("acme 1.2")
        framed = np.pad(seen, ((64, 64), (64, 64), (0, 0)), constant_values=255)
        for x, y in ((0, 0), (-30, 200), (190, 10), (300, 300)):
            expected = framed[y + 64 : y + 144, x + 64 : x + 144]
            np.testing.assert_array_equal(slide.read((x, y), 0, (80, 80)), expected)
        out = np.empty((40, 40, 3), np.uint8)
        assert slide.read((64, 64), 0, (80, 80), out, shrink=2) is out
        block = seen[64:144, 64:144].reshape(40, 2, 40, 2, 3).mean(axis=(1, 3))
        assert np.abs(out - block).max() <= 0.5
    with pytest.raises(SlideReadError, match="slide: the slide was closed"):
        slide.read((0, 0), 0, (8, 8))


@pytest.mark.usefixtures("tiles")
def test_it_is_read_in_another_process_and_found_in_folders(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    seen = write_acme(tmp_path / "slide.acme", "T", pixels)
    assert [path.name for path in find_slides([str(tmp_path)])] == ["slide.acme"]
    with open_slide(tmp_path / "slide.acme") as slide:
        assert slide.reader.startswith("acme 1.2, encoded tiles by simplejpeg")
        assert "in a process of its own" in slide.reader
        np.testing.assert_array_equal(slide.read((10, 20), 0, (256, 256)), seen[20:276, 10:266])


@pytest.mark.usefixtures("tiles")
def test_doctor_names_it() -> None:
    found = CliRunner().invoke(app, ["doctor", "--json"])
    assert found.exit_code == 0
    document = json.loads(found.stdout)
    assert document["slide_readers"]["readers"]["acme 1.2"] == [".acme"]
    assert document["slide_readers"]["not_loaded"] == []


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(
    ("letter", "words"),
    [
        ("E", r"slide.acme: acme 1.2 cannot open it \(the key is missing\); check the file"),
        ("N", "slide.acme: "),
        ("L", r"slide.acme: claims to be -1 x 320 px"),
    ],
)
def test_what_cannot_be_opened(tmp_path: Path, pixels: np.ndarray, letter: str, words: str) -> None:
    write_acme(tmp_path / "slide.acme", letter, pixels)
    with pytest.raises(SlideOpenError, match=words) as caught:
        open_slide(tmp_path / "slide.acme")
    assert "\n" not in str(caught.value)


def test_a_damaged_tile_costs_what_touches_it(
    libraries: Path, tmp_path: Path, pixels: np.ndarray
) -> None:
    path = tmp_path / "slide.acme"
    seen = write_acme(path, "D", pixels)
    slide = native_reader(libraries / "tiles.so").open(path, None)
    assert slide is not None
    with slide:
        with pytest.raises(TileDecodeError, match=r"tile 1 of level 0 \(its checksum is wrong\)"):
            slide.read((60, 0), 0, (64, 64))
        np.testing.assert_array_equal(slide.read((0, 64), 0, (64, 64)), seen[64:128, :64])
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(SlideReadError, match="cut short") as caught:
            slide.read((256, 256), 0, (64, 64))
        assert not isinstance(caught.value, TileDecodeError)


def test_libraries_that_are_no_reader(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_acme(tmp_path / "slide.acme", "T", pixels)
    (tmp_path / "text.so").write_text("no library")
    (tmp_path / "empty.c").write_text("extern int nothing;")
    bad = {
        "text.so": "text.so: file too short|text.so: invalid ELF header",
        compiled(
            tmp_path / "empty.c", tmp_path / "empty.so"
        ).name: "it exports no pgrt_reader_entry",
        compiled(ACME, tmp_path / "newer.so", "-DVERSION=9").name: "it is made for version 9",
    }
    for name, words in bad.items():
        with pytest.raises((OSError, ValueError), match=words):
            native_reader(tmp_path / name)
    named = os.pathsep.join(str(tmp_path / name) for name in (*bad, "gone.so"))
    monkeypatch.setenv(reader_libraries.VARIABLE, named)
    forget_plug_ins()
    try:
        with pytest.raises(SlideOpenError) as caught:
            open_slide(tmp_path / "slide.acme", isolate="never")
    finally:
        forget_plug_ins()
    for name in (*bad, "gone.so"):
        assert f"the library of a slide reader {tmp_path / name} cannot be loaded" in str(
            caught.value
        )
    with pytest.raises(UsageError, match=r"gone.so: no such library of slide readers"):
        add_reader_library(tmp_path / "gone.so")


SIDES = st.sampled_from((-1, 0, 1, 255, 256, 4096, 1 << 21, (1 << 21) + 1, (1 << 31) - 1, 1 << 62))


@settings(max_examples=300)
@given(
    sides=st.lists(st.tuples(SIDES, SIDES), min_size=3, max_size=3),
    tile=st.sampled_from((-1, 0, 1, 256, 4096, 4097, (1 << 31) - 1)),
    count=st.sampled_from((0, 1, 3, 65, (1 << 32) - 1)),
    tile_format=st.integers(0, 4),
    mpp=st.floats(),
    tiled=st.booleans(),
)
def test_what_a_library_says_is_read_or_refused_in_a_line(
    libraries: Path,
    sides: list[tuple[int, int]],
    tile: int,
    count: int,
    tile_format: int,
    mpp: float,
    tiled: bool,
) -> None:
    """Whatever its numbers are: nothing is allocated by them, and nothing is read past them."""
    sizes = [(width, height, tile, tile) for width, height in sides]
    levels = (native_slide._Level * 3)(*sizes)
    closed: list[object] = []

    def opened(_path: bytes, slide: Any, _said: Any, _size: int) -> int:
        told = {"level_count": count, "levels": levels, "tile_format": tile_format, "mpp": mpp}
        for name, value in told.items():
            setattr(slide._obj, name, value)
        return 0

    reader = native_slide.NativeReader(libraries / "tiles.so")
    reader._table = SimpleNamespace(
        open=opened,
        close=closed.append,
        read_tile=(lambda *_: 0) if tiled else None,
        read_region=lambda *_: 0,
    )
    try:
        slide = reader.open(Path("slide.acme"), 0.5)
    except SlideOpenError as error:
        assert "\n" not in str(error)
    else:
        assert slide is not None
        with slide:
            assert slide.read((-8, 1 << 40), 0, (16, 16)).min() == 255
    assert closed == [None]


@pytest.mark.usefixtures("tiles")
def test_a_crash_at_tile_17_costs_the_slide_alone(tmp_path: Path, pixels: np.ndarray) -> None:
    seen = write_acme(tmp_path / "good.acme", "T", pixels)
    write_acme(tmp_path / "bad.acme", "X", pixels)
    corners = [(x, y) for y in range(0, SIDE_PX, 64) for x in range(0, SIDE_PX, 64)]
    with open_slide(tmp_path / "bad.acme") as bad, open_slide(tmp_path / "good.acme") as good:
        for xy in corners[:16]:
            bad.read(xy, 0, (64, 64))
        words = r"bad: its reader, acme 1\.2, .*, crashed \(SIGSEGV\) while it read it"
        with pytest.raises(SlideReadError, match=words):
            bad.read(corners[16], 0, (64, 64))
        np.testing.assert_array_equal(good.read((0, 0), 0, (320, 320)), seen)


@pytest.mark.world
@pytest.mark.usefixtures("tiles")
def test_a_crash_costs_one_slide_of_a_batch(tmp_path: Path, pixels: np.ndarray) -> None:
    tissue = np.full((SIDE_PX, SIDE_PX, 3), (190, 100, 160), np.uint8)
    tissue[::2, ::3] = (120, 60, 140)
    write_acme(tmp_path / "bad.acme", "X", tissue)
    write_slide(tmp_path / "good.svs", (1024, 768), seed=3)
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    command = [sys.executable, "-m", "pathgene_rt.cli", "extract", "--json"]
    command += [str(tmp_path / "bad.acme"), str(tmp_path / "good.svs"), "--bundle", str(bundle)]
    command += ["--out", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert ended.returncode == 7, ended.stderr
    rows = {row["status"]: row for row in json.loads(ended.stdout)["slides"]}
    assert rows.keys() == {"done", "failed"}
    assert rows["failed"]["exit_code"] == 3
    assert "crashed (SIGSEGV) while it read it" in rows["failed"]["reason"]


def test_the_example_reads_a_picture(tmp_path: Path, pixels: np.ndarray) -> None:
    library = compiled(EXAMPLE, tmp_path / "ppm.so", "-std=c11", "-pedantic")
    path = tmp_path / "slide.ppm"
    path.write_bytes(b"P6 320 320 255\n" + pixels.tobytes())
    slide = native_reader(library).open(path, 0.5)
    assert slide is not None
    with slide:
        assert slide.info.mpp == 0.5 and slide.reader == "ppm 1.0"
        np.testing.assert_array_equal(slide.read((30, 40), 0, (50, 60)), pixels[40:100, 30:80])
    (tmp_path / "text.ppm").write_text("P6 says nothing")
    assert native_reader(library).open(tmp_path / "text.ppm", 0.5) is None
