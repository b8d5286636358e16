"""The audit trail: lines of several processes, kills at any moment, and whoever changes one."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pathgene_rt.audit.chain import head_path, rotated_files
from pathgene_rt.audit.trail import AuditTrail
from pathgene_rt.audit.verify import verify_trail, verify_trails
from pathgene_rt.errors import OutputError, UsageError, VerificationError

_APPEND = """
import sys
from pathlib import Path
from pathgene_rt.audit.trail import AuditTrail
trail = AuditTrail(Path(sys.argv[1]), rotate_bytes=1000)
for number in range(int(sys.argv[2])):
    trail.append("prediction", {"slide": f"{sys.argv[3]}-{number}"})
    print(number, flush=True)
"""


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    """Seven lines in three files or more."""
    trail = AuditTrail(tmp_path / "audit.jsonl", rotate_bytes=600)
    trail.site_changed("policy", "a" * 64)
    for number in range(6):
        trail.append("prediction", {"slide": f"s{number}", "text": "日本 \u2028 \udcff"})
    assert len(rotated_files(trail.path)) >= 2
    return trail


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_trail_is_whole_and_says_who_did_what(trail: AuditTrail) -> None:
    found = verify_trail(trail.path)
    assert (found.first, found.lines, found.note) == (1, 7, "")
    (same,) = verify_trails(trail.path.parent)
    assert same == found
    first = lines(found.files[0])[0]
    assert first["event"] == "site-change" and first["after"] == "a" * 64
    assert {"time", "user", "machine", "process", "software"} <= first.keys()
    assert not trail.site_changed("policy", "a" * 64)
    assert verify_trail(trail.path, anchor=found.sha256).lines == 7
    alone = verify_trail(found.files[1])
    assert alone.first > 1 and "renamed" in alone.note


def test_every_flipped_byte_is_found(trail: AuditTrail) -> None:
    chance = random.Random(0)
    files = [*verify_trail(trail.path).files, head_path(trail.path)]
    for file in files:
        whole = file.read_bytes()
        places = {0, len(whole) - 1, whole.find(b"\n"), *chance.sample(range(len(whole)), 25)}
        for place in places:
            changed = bytearray(whole)
            changed[place] ^= 1 << chance.randrange(8)
            file.write_bytes(changed)
            with pytest.raises(VerificationError):
                verify_trail(trail.path)
        file.write_bytes(whole)
    assert verify_trail(trail.path).lines == 7


def _without(number: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda rows: [row for place, row in enumerate(rows) if place != number]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without(0), "removed"),
        (_without(1), "removed"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "reordered"),
        (lambda rows: [rows[0], *rows], "reordered"),
        (lambda rows: [*rows, rows[-1]], "added"),
        (lambda rows: [*rows[:-1], rows[-1].replace(b"s5", b"s6")], "not the one of its head"),
        (lambda rows: [rows[0].replace(b"prediction", b"withheld"), *rows[1:]], "was changed"),
        (lambda rows: rows[:-1], "cut off"),
        (lambda rows: [*rows[:-1], rows[-1][:-10]], "cut off"),
        (lambda rows: [], "cut off"),
    ],
)
def test_what_is_removed_added_reordered_or_changed_is_found(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], said: str
) -> None:
    trail = AuditTrail(tmp_path / "audit.jsonl")
    for number in range(6):
        trail.append("prediction", {"slide": f"s{number}"})
    rows = trail.path.read_bytes().splitlines(keepends=True)
    trail.path.write_bytes(b"".join(change(rows)))
    with pytest.raises(VerificationError, match=said):
        verify_trail(trail.path)


def test_files_that_are_gone_are_found(trail: AuditTrail) -> None:
    files = verify_trail(trail.path).files
    kept = {file: file.read_bytes() for file in (*files, head_path(trail.path))}
    for file, data in kept.items():
        file.unlink()
        with pytest.raises(VerificationError):
            verify_trail(trail.path)
        with pytest.raises(VerificationError):
            verify_trails(trail.path.parent)
        file.write_bytes(data)
    last_of_first = verify_trail(files[0]).sha256
    files[0].unlink()
    assert verify_trail(trail.path, after=last_of_first).first > 1
    with pytest.raises(VerificationError, match="does not go on"):
        verify_trail(trail.path, after="0" * 64)
    for file in kept:
        file.unlink(missing_ok=True)
    with pytest.raises(UsageError, match="no audit trail"):
        verify_trail(trail.path)


def test_a_trail_made_anew_lacks_the_anchor(trail: AuditTrail) -> None:
    anchor = verify_trail(trail.path).sha256
    for file in (*verify_trail(trail.path).files, head_path(trail.path)):
        file.unlink()
    trail.append("prediction", {"slide": "another"})
    assert verify_trail(trail.path).lines == 1
    with pytest.raises(VerificationError, match="no line has the hash"):
        verify_trail(trail.path, anchor=anchor)


def test_nothing_is_added_to_a_trail_that_was_cut(trail: AuditTrail) -> None:
    whole = trail.path.read_bytes()
    for changed in (whole[:-1], b"", whole + whole, whole + b'{"sequence":8}\n'):
        trail.path.write_bytes(changed)
        with pytest.raises(VerificationError, match="not as it was left"):
            trail.append("prediction", {})
        assert trail.path.read_bytes() == changed


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_a_line_that_was_written_in_part_is_cut_off_and_told(tmp_path: Path, cut: int) -> None:
    """As a kill leaves it: before the line's end, or before the head counts it (10,000)."""
    trail = AuditTrail(tmp_path / "audit.jsonl")
    trail.append("prediction", {"slide": "s6"})
    head = head_path(trail.path).read_bytes()
    before = trail.path.read_bytes()
    trail.append("prediction", {"slide": "s7"})
    new = trail.path.read_bytes()[len(before) :]
    head_path(trail.path).write_bytes(head)
    trail.path.write_bytes(before + new[:cut])
    if cut > len(new):
        assert "newer than the head" in verify_trail(trail.path).note
    else:
        with pytest.raises(VerificationError, match="cut off"):
            verify_trail(trail.path)
    trail.append("prediction", {"slide": "s8"})
    events = [(one["event"], one.get("slide")) for one in lines(trail.path)[-2:]]
    lost = ("repair", None) if cut < len(new) else ("prediction", "s7")
    assert events == [lost, ("prediction", "s8")]
    assert verify_trail(trail.path).lines == 3


@pytest.mark.parametrize("begun", [False, True])
def test_a_kill_between_two_files_loses_nothing(tmp_path: Path, begun: bool) -> None:
    """After the file was renamed, and after the next one's first line."""
    trail = AuditTrail(tmp_path / "audit.jsonl", rotate_bytes=1)
    trail.append("prediction", {"slide": "s1"})
    head = head_path(trail.path).read_bytes()
    trail.append("prediction", {"slide": "s2"})
    assert len(rotated_files(trail.path)) == 1
    head_path(trail.path).write_bytes(head)
    if not begun:
        trail.path.unlink()
    found = verify_trail(trail.path)
    assert found.lines == 1 + begun and bool(found.note) == begun
    trail.append("prediction", {"slide": "s3"})
    assert verify_trail(trail.path).lines == 2 + begun


def test_lines_of_several_processes_and_of_killed_ones(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    command = [sys.executable, "-c", _APPEND, str(path)]
    processes = [
        subprocess.Popen([*command, "12", str(name)], stdout=subprocess.PIPE, text=True)
        for name in range(2)
    ]
    killed = subprocess.Popen([*command, "1000", "killed"], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    counted = [killed.stdout.readline() for _ in range(8)]
    killed.kill()
    counted += killed.stdout.read().split()
    said = [process.communicate()[0].split() for process in processes]
    assert [len(one) for one in said] == [12, 12]
    AuditTrail(path).append("end", {})
    found = verify_trail(path)
    slides = [one.get("slide") for file in found.files for one in lines(file)]
    for name in range(2):
        assert [one for one in slides if str(one).startswith(f"{name}-")] == [
            f"{name}-{number}" for number in range(12)
        ]
    of_killed = sum(str(one).startswith("killed") for one in slides)
    assert len(counted) <= of_killed <= len(counted) + 1
    assert len(found.files) > 2


def test_places_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"NAME\.jsonl"):
        AuditTrail(tmp_path / "audit.log")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="no result counts without"):
        AuditTrail(tmp_path / "file" / "audit.jsonl").append("prediction", {})
    with pytest.raises(UsageError, match="holds no audit trail"):
        verify_trails(tmp_path)
