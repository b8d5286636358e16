"""Frames of a whole object, and when a server is asked for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="the extra dicomweb is not installed")

from pathgene_rt.dicomweb.file_frames import frames_of_file
from pathgene_rt.dicomweb.slide import WHOLE_FROM_S, expected_begin_s
from tests.support.dicom_slides import DicomLayout, write_dicom


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (256, 384, 3)).astype(np.uint8)


def test_stored_pixels_are_split_into_their_frames(tmp_path: Path, pixels: np.ndarray) -> None:
    (path,) = write_dicom(tmp_path, [pixels], DicomLayout(syntax="explicit", tile_px=128))
    syntax, frames = frames_of_file(path.read_bytes())
    assert syntax == "1.2.840.10008.1.2.1"
    tiles = pixels.reshape(2, 128, 3, 128, 3).swapaxes(1, 2).reshape(6, -1)
    assert [np.frombuffer(one, np.uint8).tolist() for one in frames] == tiles.tolist()


def test_encoded_frames_come_without_the_heads_of_fragments(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    (path,) = write_dicom(tmp_path, [pixels], DicomLayout(tile_px=128))
    syntax, frames = frames_of_file(path.read_bytes())
    assert syntax == "1.2.840.10008.1.2.4.50"
    assert len(frames) == 6
    assert all(one.startswith(b"\xff\xd8") and b"\xff\xd9" in one[-4:] for one in frames)


@pytest.mark.parametrize("syntax", ["explicit", "jpeg"])
def test_no_shortened_object_is_taken_for_a_whole_one(
    tmp_path: Path, pixels: np.ndarray, syntax: str
) -> None:
    (path,) = write_dicom(tmp_path, [pixels], DicomLayout(syntax=syntax, tile_px=128))
    whole = path.read_bytes()
    for short in (b"", b"no DICOM", whole[:2000], whole[: len(whole) // 2]):
        with pytest.raises(ValueError, match="an object"):
            frames_of_file(short)


def test_only_a_server_that_reads_the_whole_object_is_asked_for_it() -> None:
    orthanc = [(16, 0.02), (256, 0.16)]
    assert expected_begin_s(orthanc, 4096) > WHOLE_FROM_S
    far_away = [(16, 0.4), (256, 0.4)]
    assert expected_begin_s(far_away, 4096) == 0
    assert expected_begin_s([(16, 0.5), (256, 0.3)], 4096) == 0
    assert expected_begin_s([(256, 3.0)], 4096) == 0, "one tells nothing"
