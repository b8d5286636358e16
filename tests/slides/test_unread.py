"""What is said of files that no reader takes: what they are, and the way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from pathgene_rt.errors import SlideOpenError, UsageError
from pathgene_rt.slides import find_slides, open_slide


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.kfbf", b"\xf1\x01\xee\xeeKFBF", r"\(KFBF, KFBL\), which is not read here; .*K-Viewer"),
        ("a.svs", b"\xf1\x01\xee\xeeKFBL", "a KFBio slide"),
        ("a.sdpc", b"SQ\1", r"a SQRAY slide \(SDPC\)"),
        ("a.tmap", b"x", r"a UNIC slide \(TMAP\)"),
        ("a.mds", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", r"a Motic slide \(MDS\)"),
        ("a.bin", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a compound file"),
        ("a.isyntax", b'<DataObject ObjectType="DPUfsImport">', "a Philips iSyntax slide"),
        ("a.xml", b'\xef\xbb\xbf<DataObject ObjectType="DPUfsImport">', "a Philips iSyntax slide"),
        ("frame_t.ets", b"SIS\0", r"of which the \.vsi file is the slide"),
        ("a.nd2", b"\xda\xce\xbe\x0a", "a Nikon microscope file"),
        ("a.svs", b"%PDF-1.7", "a PDF document"),
        ("a.svs", b"PK\x03\x04", "an archive.*; unpack it first"),
        ("a.svs", b"version https://git-lfs.github.com/spec/v1", "run git lfs pull"),
        ("a.svs", b"<!DOCTYPE html><html>", "its download failed"),
        ("a.svs", bytes(4096), "begins with zeros.*its copy did not end"),
        ("a.svs", b"", "is empty.*get it again"),
        ("a.dcm", bytes(128) + b"DICM", "a DICOM file, but of no slide"),
        ("a.mrxs", b"\xff\xd8\xff\xe0", r"\(MRXS\) without a, the folder beside it"),
        (
            "a.vms",
            b"[Virtual Microscope Specimen]\nNoLayers=1\nImageFile=a-1.jpg\nMapFile=a-m.jpg\n",
            r"a Hamamatsu slide without a-1\.jpg, which it names",
        ),
    ],
)
def test_what_a_file_is_by_its_content(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SlideOpenError, match=words) as caught:
        open_slide(path)
    assert str(caught.value).startswith(f"{path}: ") and "; " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mirax_whose_folder_lacks_its_index(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(SlideOpenError, match=r"without Slidedat\.ini, in the folder beside it"):
        open_slide(tmp_path / "a.mrxs")


def test_the_picture_in_an_olympus_file_is_not_its_slide(tmp_path: Path) -> None:
    path = tmp_path / "a.vsi"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    with pytest.raises(SlideOpenError, match=r"an Olympus slide \(VSI\)"):
        open_slide(path)


def test_folders_tell_what_they_leave_out(tmp_path: Path) -> None:
    for name in ("a.kfbf", "b.KFBF", "c.sdpc", "d.svs", "e.txt", "._f.kfbf"):
        (tmp_path / name).write_bytes(b"x")
    told: list[str] = []
    assert find_slides([str(tmp_path)], told=told.append) == [tmp_path / "d.svs"]
    assert len(told) == 2
    assert told[0].startswith("2 files left out: .kfbf is a KFBio slide (KFBF, KFBL), which")
    assert told[1].startswith("1 file left out: .sdpc is a SQRAY slide")
    assert not any(str(tmp_path) in line or "c.sdpc" in line for line in told)
    (tmp_path / "d.svs").unlink()
    with pytest.raises(UsageError, match=r"holds no slide.*2 files left out: \.kfbf is a KFBio"):
        find_slides([str(tmp_path)])
