"""Pseudonyms: keyed, the same under one key, and nothing beside them that names the slide."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pathgene_rt.engines.backend import NotCalibratedError
from pathgene_rt.engines.cuda.errors import DeviceLostError
from pathgene_rt.errors import (
    EngineError,
    OutputError,
    PathGeneError,
    SlideError,
    SlideOpenError,
    SlideReadError,
    UsageError,
)
from pathgene_rt.pseudonyms import KEY_VARIABLE, Pseudonyms, shown_id

KEY = bytes(range(32))
SLIDE = Path("/data/S21-0417/S21-0417-A1.svs")


def test_it_is_hmac_sha256_and_no_plain_hash() -> None:
    name = b"S21-0417-A1"
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in KEY.ljust(64, b"\0")) + name).digest()
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in KEY.ljust(64, b"\0")) + inner).hexdigest()
    pseudonym = Pseudonyms(KEY).of("S21-0417-A1")
    assert pseudonym == outer[:20]
    assert pseudonym not in hashlib.sha256(name).hexdigest()
    assert Pseudonyms(KEY[::-1]).of("S21-0417-A1") != pseudonym
    assert shown_id("S21-0417-A1", None) == "S21-0417-A1"


def test_names_that_are_no_text_have_one_too() -> None:
    assert len(Pseudonyms(KEY).of("case\udcff")) == 20  # as Python gives a name of other bytes


def test_random_ones_are_of_one_run() -> None:
    first, second = Pseudonyms.random(), Pseudonyms.random()
    assert first.of("a") == first.of("a") != second.of("a")
    assert not first.lasting and Pseudonyms(KEY).lasting
    assert repr(first.key) not in repr(first)


def test_the_sites_key_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "site.key"
    path.write_bytes(KEY)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert not Pseudonyms.of_site().lasting
    assert Pseudonyms.of_site(path).of("a") == Pseudonyms(KEY).of("a")
    monkeypatch.setenv(KEY_VARIABLE, str(path))
    assert Pseudonyms.of_site().of("a") == Pseudonyms(KEY).of("a")
    other = tmp_path / "other.key"
    other.write_bytes(KEY[::-1])
    assert Pseudonyms.of_site(other).of("a") == Pseudonyms(KEY[::-1]).of("a")


@pytest.mark.parametrize(
    ("held", "words"),
    [(b"", "holds 0 bytes"), (KEY[:31], "holds 31 bytes"), (b"x" * 5000, "more than 4096")],
)
def test_keys_that_are_none(tmp_path: Path, held: bytes, words: str) -> None:
    (tmp_path / "site.key").write_bytes(held)
    with pytest.raises(UsageError, match=words):
        Pseudonyms.from_file(tmp_path / "site.key")
    with pytest.raises(UsageError, match="cannot read the pseudonym key"):
        Pseudonyms.from_file(tmp_path / "gone.key")
    with pytest.raises(UsageError, match="can be guessed"):
        Pseudonyms(b"secret")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("S21-0417-A1: no tissue", "{}: no tissue"),
        ("/data/S21-0417/S21-0417-A1.svs: is cut short", "{}: is cut short"),
        ("cannot read '/data/S21-0417/S21-0417-A1.svs'", "cannot read '{}'"),
        ("S21-0417-A1.svs, S21-0417-A1_2.h5", "{}, {}_2.h5"),
        ("/data/S21-0417/Slidedat.ini is missing", "{} is missing"),
        ("XS21-0417-A1 and S21-0417-A10 are others", "XS21-0417-A1 and S21-0417-A10 are others"),
        ("/data/out/report.json: no space", "/data/out/report.json: no space"),
    ],
)
def test_texts_are_concealed(text: str, expected: str) -> None:
    pseudonyms = Pseudonyms(KEY)
    assert pseudonyms.conceal(text, SLIDE) == expected.format(*[pseudonyms.of(SLIDE.stem)] * 2)


def test_relative_paths_are_concealed_as_whole_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pseudonyms, slide = Pseudonyms(KEY), Path("S21/a-1.svs")
    whole = f"{tmp_path}/S21/a-1.svs and S21/a-1.svs and {tmp_path}/S21/Data0.dat, out of memory"
    shown = pseudonyms.of("a-1")
    assert pseudonyms.conceal(whole, slide) == f"{shown} and {shown} and {shown}, out of memory"


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (SlideOpenError(f"{SLIDE}: not a slide"), SlideOpenError),
        (OutputError(f"cannot write for {SLIDE.name}"), OutputError),
        (KeyError(SLIDE.name), SlideError),
        (OSError(5, "Input/output error", str(SLIDE)), SlideReadError),
        (MemoryError(), EngineError),
        (UnicodeDecodeError("utf-8", b"S21-0417-A1", 0, 1, "S21-0417-A1.svs"), SlideError),
    ],
)
def test_errors_are_concealed_with_what_they_came_of(
    raised: Exception, kind: type[PathGeneError]
) -> None:
    pseudonyms = Pseudonyms(KEY)
    with pytest.raises(PathGeneError) as caught, pseudonyms.concealing(SLIDE):
        raise raised
    assert type(caught.value) is kind
    assert "S21" not in str(caught.value) and pseudonyms.of(SLIDE.stem) in str(caught.value)
    assert caught.value.__suppress_context__ and caught.value.__cause__ is None


def test_interrupts_pass() -> None:
    with pytest.raises(KeyboardInterrupt), Pseudonyms(KEY).concealing(SLIDE):
        raise KeyboardInterrupt


def test_every_error_can_be_said_again() -> None:
    """Concealing makes an error anew from its message alone."""

    def below(kind: type[PathGeneError]) -> list[type[PathGeneError]]:
        return [kind, *(one for child in kind.__subclasses__() for one in below(child))]

    # Those of training are raised where no slide is predicted, and say more than a message.
    kinds = [kind for kind in below(PathGeneError) if ".training." not in kind.__module__]
    assert {NotCalibratedError, DeviceLostError} < set(kinds)
    for kind in kinds:
        assert str(kind("as it was")) == "as it was"
