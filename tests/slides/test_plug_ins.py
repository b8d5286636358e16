"""Readers of other packages: found by their entry points, asked last, harmless when they fail."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.slides import find_slides, open_slide
from pathgene_rt.slides.isolated_slide import warn_once
from pathgene_rt.slides.overview import read_overview
from pathgene_rt.slides.registry import (
    BUILT_IN_READERS,
    ENTRY_POINT_GROUP,
    known_suffixes,
)
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support.paths import ROOT
from tests.support.plug_ins import forget_plug_ins

Install = Callable[[str, str], None]
"""A package (its name, and its one module's source) whose entry point is that module's READER."""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    installed = []

    def install(name: str, source: str) -> None:
        installed.append(name)
        (site / f"{name}.py").write_text(source)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{name} = {name}:READER\n")
        forget_plug_ins()
        warn_once.cache_clear()

    yield install
    forget_plug_ins()
    for name in installed:
        sys.modules.pop(name, None)


def documented() -> str:
    """The plug-in of docs/slides.md."""
    text = (ROOT / "docs" / "slides.md").read_text()
    (source,) = re.findall(r"and `npy_slides.py`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert len(source.splitlines()) <= 60
    return source


def reader_source(name: str, suffix: str, opened: str) -> str:
    """A module whose reader takes every file and opens it as the lines ``opened`` say."""
    return (
        "from pathgene_rt.errors import *\nfrom pathgene_rt.slides import SlideReader\n"
        f"def opened(path, mpp):\n    {opened}\n"
        f"READER = SlideReader({name!r}, frozenset({{{suffix!r}}}), lambda *_: True, opened)\n"
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "array.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8))
    return path


def test_the_documented_plug_in_opens_slides(install: Install, picture: Path) -> None:
    with pytest.raises(SlideOpenError, match="not a slide of any known format"):
        open_slide(picture)
    install("npy_slides", documented())
    assert find_slides([str(picture.parent)]) == [picture]
    pixels = np.load(picture)
    with open_slide(picture, mpp=0.5) as slide:
        assert slide.reader.startswith("npy_slides 1.0, in a process of its own")
        assert (slide.info.size_px, slide.info.mpp) == ((900, 700), 0.5)
        np.testing.assert_array_equal(slide.read((30, 40), 0, (64, 32)), pixels[40:72, 30:94])
        corner = slide.read((-8, 690), 0, (32, 32))
        np.testing.assert_array_equal(corner[:10, 8:], pixels[690:, :24])
        assert (corner[10:] == 255).all() and (corner[:, :8] == 255).all()
        out = np.empty((16, 16, 3), np.uint8)
        halved = slide.read((0, 0), 0, (32, 32), out, shrink=2)
        assert halved is out
        assert slide.encoded_source(0) is None and slide.encoding_signature(0) == ""
        assert slide.overview(4.0).rgb.shape == read_overview(slide, 4.0).rgb.shape == (88, 113, 3)
        slide.close()


def test_built_in_readers_are_asked_first(install: Install, tmp_path: Path) -> None:
    install("greedy", reader_source("greedy", ".svs", "raise SystemError('asked')"))
    path = tmp_path / "slide.svs"
    write_slide(path, (512, 512), seed=1)
    with open_slide(path) as slide:
        assert "simplejpeg" in slide.reader


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("READER = open\n", "not a SlideReader"),
        (reader_source("broken", "TXT", "return None"), "'TXT' is not in lower case with a dot"),
    ],
)
def test_one_that_cannot_be_loaded_is_told_and_left_out(
    install: Install,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    source: str,
    told: str,
) -> None:
    # Libraries that configure logging in the same process may have turned existing loggers off.
    monkeypatch.setattr(logging.getLogger("pathgene_rt.slides"), "disabled", False)
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)
    monkeypatch.setattr(logging.getLogger("pathgene_rt"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("pathgene_rt.slides"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="pathgene_rt.slides")
    install("npy_slides", documented())
    install("broken", source)
    assert find_slides([str(picture.parent)]) == [picture]
    (record,) = caplog.records
    line = record.getMessage()
    assert line.startswith("the slide reader 'broken' of broken 1.0 cannot be loaded (")
    assert told in line and line.endswith("; update or uninstall it") and "\n" not in line
    with open_slide(picture, mpp=0.5) as slide:
        assert slide.reader.startswith("npy_slides 1.0, in a process of its own")
    with pytest.raises(SlideOpenError, match=r"not a slide.*'broken' of broken 1\.0 cannot"):
        open_slide(ROOT / "pyproject.toml")


def test_one_that_raises_costs_only_what_nobody_else_reads(install: Install, picture: Path) -> None:
    install("a_broken", reader_source("a_broken", ".npy", "raise ValueError('two\\nlines')"))
    with pytest.raises(SlideOpenError) as caught:
        open_slide(picture)
    message = str(caught.value)
    assert message.startswith(f"{picture}: not a slide of any known format")
    assert message.endswith(
        "the slide reader 'a_broken', which another package brought, failed (ValueError: two lines)"
    )
    install("npy_slides", documented())
    with open_slide(picture, mpp=0.5) as slide:
        assert slide.reader.startswith("npy_slides 1.0, in a process of its own")


def test_what_a_reader_says_of_its_own_file_is_said(install: Install, picture: Path) -> None:
    install("strict", reader_source("strict", ".npy", "raise SlideOpenError(f'{path}: too old')"))
    with pytest.raises(SlideOpenError, match=r"array\.npy: too old$"):
        open_slide(picture)


def test_folders_are_searched_for_what_readers_declare() -> None:
    declared = frozenset().union(*(reader.suffixes for reader in BUILT_IN_READERS))
    assert declared <= known_suffixes()
    assert {".svs", ".dcm", ".ndpi", ".mrxs", ".tiff"} <= declared
