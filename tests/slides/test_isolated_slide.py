"""Slides that are read in a process of its own: what crashes there costs that slide alone."""

from __future__ import annotations

import ctypes
import errno
import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pathgene_rt import PredictOptions
from pathgene_rt.errors import SlideOpenError, SlideReadError, TileDecodeError, UsageError
from pathgene_rt.slides import isolated_slide, open_slide
from pathgene_rt.slides.registry import ENTRY_POINT_GROUP
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.plug_ins import forget_plug_ins

PLUG_IN = """
import ctypes, os, socket, sys, time
import numpy as np
from pathgene_rt.errors import SlideOpenError, TileDecodeError
from pathgene_rt.geometry import SlideInfo
from pathgene_rt.slides import PixelSlide, SlideReader


class Odd(PixelSlide):
    reader = "odd 1.0"

    def __init__(self, path, mpp):
        self.what = path.read_text()
        self.info = SlideInfo(path.stem, (4096, 4096), mpp, (1.0,), vendor="odd")
        self.reads = 0

    def read(self, xy_px, level, size_px, out=None, *, shrink=1, approximate=False):
        self.reads += 1
        if self.reads == 17 or self.what == "now":
            print("printed by a reader", flush=True)
            {how}
        out[...] = xy_px[0] % 251
        return out

    def close(self):
        pass


def opened(path, mpp):
    if path.read_text() == "abort":
        os.abort()
    return Odd(path, mpp)


READER = SlideReader("odd", frozenset({{".odd"}}), lambda path, head: path.suffix == ".odd", opened)
"""

Install = Callable[[str], Path]
"""A package whose reader does what a statement says at its 17th read; a slide of its kind."""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    site = tmp_path / "site"
    info = site / "odd_slides-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd_slides\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\nodd = odd_slides:READER\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))

    def install(how: str) -> Path:
        (site / "odd_slides.py").write_text(PLUG_IN.format(how=how))
        path = tmp_path / "slide.odd"
        path.write_text("later")
        return path

    forget_plug_ins()
    yield install
    forget_plug_ins()
    sys.modules.pop("odd_slides", None)


@pytest.fixture(scope="module")
def svs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "slide.svs"
    write_slide(path, (1024, 768), seed=3)
    return path


def test_pixels_are_those_of_this_process(svs: Path) -> None:
    with open_slide(svs) as here, open_slide(svs, isolate="always") as there:
        assert there.info == here.info
        assert there.reader.startswith(f"{here.reader}, in a process of its own")
        assert there.encoding_signature(0) == here.encoding_signature(0)
        assert there.encoded_source(0) is None
        for xy in ((0, 0), (-30, 700), (500, 300)):
            for shrink in (1, 2):
                for approximate in (False, True):
                    ways = {"shrink": shrink, "approximate": approximate}
                    np.testing.assert_array_equal(
                        there.read(xy, 0, (256, 128), **ways), here.read(xy, 0, (256, 128), **ways)
                    )
        out = np.zeros((64, 64, 3), np.uint8)
        assert there.read((0, 0), 0, (64, 64), out) is out and out.any()
        np.testing.assert_array_equal(there.overview(8.0).rgb, here.overview(8.0).rgb)


def test_threads_and_reads_larger_than_their_lane(
    svs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_slide(svs) as here, open_slide(svs, isolate="always") as there:
        with ThreadPoolExecutor(24) as pool:
            corners = [(x, y) for x in range(0, 1024, 64) for y in range(0, 768, 64)]
            found = list(pool.map(lambda xy: there.read(xy, 0, (64, 64)), corners))
        for xy, pixels in zip(corners, found, strict=True):
            np.testing.assert_array_equal(pixels, here.read(xy, 0, (64, 64)))
        monkeypatch.setattr(isolated_slide, "LANE_BYTES", 1 << 10)
        np.testing.assert_array_equal(
            there.read((9, 9), 0, (500, 400)), here.read((9, 9), 0, (500, 400))
        )


def test_several_regions_at_once(
    install: Install, svs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corners = [(x, y) for y in (-20, 0, 700) for x in (0, 64, 990)]
    with open_slide(svs) as here, open_slide(svs, isolate="always") as there:
        expected = [here.read(xy, 0, (64, 64), shrink=2) for xy in corners]
        assert there.reads_together > 1 == here.reads_together
        for bytes_of_a_lane in (isolated_slide.LANE_BYTES, 1 << 10, 2 * 32 * 32 * 3):
            monkeypatch.setattr(isolated_slide, "LANE_BYTES", bytes_of_a_lane)
            outs = np.zeros((9, 32, 32, 3), np.uint8)
            assert there.read_many(corners, 0, (64, 64), outs, shrink=2) == [None] * 9
            np.testing.assert_array_equal(outs, expected)
    path = install("raise TileDecodeError('damaged here')")
    with open_slide(path, 0.5) as slide:
        outs = np.zeros((20, 8, 8, 3), np.uint8)
        damages = slide.read_many([(n, 0) for n in range(20)], 0, (8, 8), outs)
        assert [str(one) for one in damages if one is not None] == ["damaged here"]
        assert isinstance(damages[16], TileDecodeError)
        assert outs[:, 0, 0, 0].tolist() == [*range(16), outs[16, 0, 0, 0], 17, 18, 19]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("ctypes.string_at(0)", r"odd 1\.0, crashed \(SIGSEGV\) while it read it"),
        ("os.abort()", r"crashed \(SIGABRT\)"),
        ("os._exit(7)", "ended with exit code 7"),
    ],
)
def test_a_crash_costs_the_slide_alone(install: Install, svs: Path, how: str, words: str) -> None:
    path = install(how)
    with open_slide(path, 0.5) as slide:
        for number in range(16):
            assert slide.read((number, 0), 0, (8, 8)).max() == number
        for _ in range(2):
            with pytest.raises(SlideReadError, match=words) as caught:
                slide.read_many([(0, 0)] * 4, 0, (8, 8), np.zeros((4, 8, 8, 3), np.uint8))
            assert not isinstance(caught.value, TileDecodeError)
    with open_slide(svs) as slide:
        slide.read((0, 0), 0, (64, 64))
    assert "odd_slides" not in sys.modules


@pytest.mark.world
def test_a_batch_goes_on_after_a_crash(install: Install, svs: Path, tmp_path: Path) -> None:
    bad = install("ctypes.string_at(0)")
    bad.write_text("now")
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    command = [sys.executable, "-m", "pathgene_rt.cli", "extract", "--json"]
    command += [str(bad), str(svs), "--mpp", "0.5", "--bundle", str(bundle)]
    command += ["--out", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert ended.returncode == 7, ended.stderr
    rows = {row["status"]: row for row in json.loads(ended.stdout)["slides"]}
    assert rows.keys() == {"done", "failed"}
    assert rows["failed"]["exit_code"] == 3
    assert "its reader, odd 1.0, crashed (SIGSEGV) while it read it" in rows["failed"]["reason"]


def test_a_crash_while_it_opens(install: Install) -> None:
    path = install("pass")
    path.write_text("abort")
    with pytest.raises(SlideOpenError, match=r"crashed \(SIGABRT\) while it opened it"):
        open_slide(path)


def test_errors_of_a_reader_come_through(install: Install) -> None:
    path = install("raise TileDecodeError('damaged here')")
    with open_slide(path, 0.5) as slide:
        assert slide.info.slide_id == "slide"
        for _ in range(16):
            slide.read((0, 0), 0, (8, 8))
        with pytest.raises(TileDecodeError, match="damaged here"):
            slide.read((0, 0), 0, (8, 8))
        slide.read((0, 0), 0, (8, 8))
    foreign = install("raise KeyError('what')")
    foreign.write_text("now")
    with open_slide(foreign, 0.5) as slide, pytest.raises(Exception, match="KeyError: 'what'") as e:
        slide.read((0, 0), 0, (8, 8))
    assert getattr(e.value, "exit_code", None) == 3


def test_a_reader_that_hangs_ends_with_its_slide(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install("time.sleep(1000)")
    path.write_text("now")
    slide = open_slide(path, 0.5)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(slide.read, (0, 0), 0, (8, 8))
        time.sleep(0.05)
        slide.close()
        with pytest.raises(SlideReadError, match="was closed"):
            reading.result(timeout=20)
    slide = open_slide(path, 0.5)
    monkeypatch.setattr(isolated_slide, "ANSWER_S", 0.1)
    for words in ("did not answer for 0.1 s while it read it", "did not answer"):
        with pytest.raises(SlideReadError, match=words):
            slide.read((0, 0), 0, (8, 8))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux takes these rights away")
def test_a_reader_can_neither_write_nor_connect(install: Install, tmp_path: Path) -> None:
    target = tmp_path / "written"
    tries = {
        "writing": f"open({str(target)!r}, 'w')",
        "network": "socket.socket()",
    }
    for right, how in tries.items():
        path = install(f"{how}; os._exit(0)")
        path.write_text("now")
        with open_slide(path, 0.5) as slide:
            if right in slide.reader:
                pytest.skip(f"this kernel cannot forbid {right}")
            with pytest.raises(SlideReadError, match=r"Permission denied|not permitted"):
                slide.read((0, 0), 0, (8, 8))
    assert not target.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's calls")
@pytest.mark.parametrize(
    ("call", "number"), [("io_uring_setup", 425), ("socket of x32", 0x40000000 + 41)]
)
def test_ways_around_the_forbidden_network_are_shut(
    install: Install, call: str, number: int
) -> None:
    """With arguments that are none, so that the kernel refuses them in words of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(number, 1, None)
    if ctypes.get_errno() == errno.EPERM:
        pytest.skip(f"this machine forbids {call} to everybody")
    path = install(
        f"ctypes.CDLL(None, use_errno=True).syscall({number}, 1, None); "
        "raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))"
    )
    path.write_text("now")
    with open_slide(path, 0.5) as slide:
        if "network" in slide.reader:
            pytest.skip("this kernel cannot forbid the network")
        with pytest.raises(SlideReadError, match="not permitted"):
            slide.read((0, 0), 0, (8, 8))


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of memory there")
def test_a_memory_bomb_is_an_error(install: Install) -> None:
    path = install("np.ones(1 << 40, np.uint8)")
    path.write_text("now")
    with open_slide(path, 0.5) as slide, pytest.raises(Exception, match=r"memory") as caught:
        slide.read((0, 0), 0, (8, 8))
    assert getattr(caught.value, "exit_code", None) in (3, 5)


def test_never_reads_here(install: Install) -> None:
    with open_slide(install("pass"), 0.5, isolate="never") as slide:
        assert slide.reader == "odd 1.0"
    assert "odd_slides" in sys.modules
    with pytest.raises(UsageError, match="isolate 'maybe' is unknown"):
        PredictOptions(isolate="maybe")


def test_the_process_ends_with_its_parent(svs: Path) -> None:
    source = (
        "import os, sys\nfrom pathlib import Path\nfrom pathgene_rt.slides import open_slide\n"
        f"slide = open_slide(Path({str(svs)!r}), isolate='always')\n"
        "print(slide._process._process.pid, flush=True)\nos._exit(1)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False
    )
    pid = int(ended.stdout)
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in _status(pid):
            return
        time.sleep(0.05)
    pytest.fail("it runs on")


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "\nState:\tZ"


def test_a_tiff_that_is_not_what_it_seems_costs_nothing_but_itself(tmp_path: Path) -> None:
    """OpenSlide takes the tile's height for a size of memory, and its library ends the process."""
    path, rgb = tmp_path / "odd.svs", np.zeros((256, 320, 3), np.uint8)
    described = "Aperio Image Library v12.0.15\n320x256 (64x64) JPEG/RGB|AppMag = 20|MPP = 0.5"
    tifffile.imwrite(path, rgb, tile=(64, 64), compression="jpeg", description=described)
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages.first.tags
        places = {name: tags[name].offset for name in ("SamplesPerPixel", "TileLength")}
    with path.open("r+b") as file:
        file.seek(places["SamplesPerPixel"] + 2)
        file.write(struct.pack("<H", 1))  # a type that has tifffile give up
        file.seek(places["TileLength"] + 2)
        file.write(struct.pack("<HII", 4, 1, 2**31 - 1))
    with open_slide(path) as slide:
        assert "in a process of its own" in slide.reader
        with pytest.raises(SlideReadError, match=r"crashed|cannot be"):
            slide.read((0, 0), 0, (64, 64))
