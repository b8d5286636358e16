"""Addresses, tokens and certificates that are refused before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathgene_rt.cli.dicomweb import read_filters, read_worklist
from pathgene_rt.dicomweb.server import Server
from pathgene_rt.errors import MissingExtraError, UsageError


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("pacs/dicom-web", "is no address"),
        ("ftp://pacs/dicom-web", "is no address"),
        ("https://", "is no address"),
        ("http://pacs/dicom-web", "is not encrypted"),
        ("http://192.168.1.2:8042/dicom-web", "is not encrypted"),
        ("https://me:secret@pacs/dicom-web", "holds more than host and path"),
        ("https://pacs/dicom-web?key=secret", "holds more than host and path"),
    ],
)
def test_addresses_that_are_refused(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        Server.of(url)
    assert "secret" not in str(raised.value).replace(url, "")


@pytest.mark.parametrize(
    "url",
    ["https://pacs/dicom-web/", "http://localhost:8042", "http://127.0.0.1:1", "http://[::1]"],
)
def test_addresses_that_are_taken(url: str) -> None:
    assert Server.of(url).url == url.rstrip("/")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ca": Path("none.pem")}, "--ca none.pem: there is no such file"),
        ({"key": Path("none.pem")}, "--key goes with --cert"),
        ({"timeout_s": 0.0}, "--timeout"),
        ({"retry_s": float("nan")}, "--retry"),
        ({"connections": 0}, "--connections 0"),
    ],
)
def test_options_that_make_no_sense(options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Server.of("https://pacs/dicom-web", **options)


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"\xc3\xa4"])
def test_a_token_is_one_word_and_is_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="token"):
        Server.of("https://pacs/dicom-web", token_file=path)
    path.write_text("abc\n")
    server = Server.of("https://pacs/dicom-web", token_file=path)
    assert server.token == "abc"
    assert "abc" not in repr(server)


def test_filters_and_worklists(tmp_path: Path) -> None:
    assert read_filters(["StudyDate=20260101-", "00100020=a=b"]) == {
        "StudyDate": "20260101-",
        "00100020": "a=b",
    }
    for text in ("StudyDate", "=x", "a b=c", "StudyDate="):
        with pytest.raises(UsageError, match="give KEY=VALUE"):
            read_filters([text])
    path = tmp_path / "list.txt"
    path.write_text("# today\nACC-1\n\n ACC-2 \n")
    assert read_worklist(path) == ["ACC-1", "ACC-2"]
    path.write_text("\n")
    with pytest.raises(UsageError, match="has no accession number"):
        read_worklist(path)
    with pytest.raises(UsageError, match="cannot read the worklist"):
        read_worklist(tmp_path / "none")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from pathgene_rt.dicomweb import session

    monkeypatch.setattr(session, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pathgene-rt\[dicomweb\]"):
        session.require_dicomweb()
