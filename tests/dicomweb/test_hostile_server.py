"""A server that says what no server should: nothing of it names a file or becomes a result."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("pydicom", reason="the extra dicomweb is not installed")

from pathgene_rt.dicomweb.archive import Archive, SeriesKey, is_uid
from pathgene_rt.dicomweb.server import ArchiveError, Server
from pathgene_rt.dicomweb.session import Answer
from pathgene_rt.dicomweb.slide import SeriesSlide
from pathgene_rt.errors import SlideOpenError

KEY = SeriesKey("1.2", "1.3")


class Says:
    """In place of a session: the same answer to everything."""

    server = Server(url="https://pacs")

    def __init__(self, document: Any, content_type: str = "application/dicom+json") -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self._answer = Answer(200, content_type, body)

    def get(self, *_: object) -> Answer:
        return self._answer

    post = get


def series(uid: Any) -> list[dict[str, Any]]:
    return [{"0020000D": {"Value": ["1.2"]}, "0020000E": {"Value": [uid]}}]


@pytest.mark.parametrize(
    "uid",
    ["../../etc", "1.2/../3", "", "1.2\n", "1." * 40 + "1", "1..2", 7, None, ["1.2"], "1.2.a"],
)
def test_what_is_no_uid_names_no_folder(uid: Any) -> None:
    assert not is_uid(uid)
    with pytest.raises(ArchiveError, match="UID"):
        list(Archive(Says(series(uid))).find_series())


@pytest.mark.parametrize("document", [{}, [1], [[]], "x", [{"0020000D": 3}]])
def test_series_that_are_none(document: Any) -> None:
    with pytest.raises(ArchiveError):
        list(Archive(Says(document)).find_series())


def test_a_server_that_knows_no_pages_ends() -> None:
    rows = [series(f"1.3.{number}")[0] for number in range(100)]
    assert len(list(Archive(Says(rows)).find_series())) == 100


@pytest.mark.parametrize(
    "document",
    [
        [{"00080016": {"vr": "UI"}}],
        [{"00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.77.1.6"]}}],
        [{"00080008": {"vr": "ZZ", "Value": [1]}}],
    ],
)
def test_metadata_of_no_slide(document: Any) -> None:
    with pytest.raises(SlideOpenError):
        SeriesSlide(Archive(Says(document)), KEY)


def test_metadata_that_are_no_list() -> None:
    with pytest.raises(ArchiveError, match="no list of objects"):
        Archive(Says({})).metadata(KEY)


def test_results_that_it_did_not_take() -> None:
    failed = {
        "00081198": {"Value": [{"00081155": {"Value": ["1.9"]}, "00081197": {"Value": [0xA700]}}]}
    }
    with pytest.raises(ArchiveError, match=r"did not take 1 of 1 .*A700: out of resources"):
        Archive(Says(failed)).store("1.2", {"1.9": b"x"})
    with pytest.raises(ArchiveError, match="did not take 1 of 1"):
        Archive(Says({})).store("1.2", {"1.9": b"x"})
    with pytest.raises(ArchiveError, match="no JSON"):
        Archive(Says(b"<xml/>")).store("1.2", {"1.9": b"x"})
