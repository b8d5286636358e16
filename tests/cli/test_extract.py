"""`pathgene-rt extract` of a folder: killed and continued, bad slides, files of other tools."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.features.hdf5 import is_complete_features, read_features, write_features
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny
from tests.support.command_line import run_command

SLIDES = 4

_KILLED_WHILE_IT_WRITES = """
import os, sys, time

flush, calls = os.fsync, 0

def fsync(file):
    global calls
    calls += 1
    if calls == 6:  # two a slide: as its log begins, and when the file is whole
        os.truncate(file, os.fstat(file).st_size // 2)
        print("half of the third file is written", flush=True)
        time.sleep(600)
    flush(file)

os.fsync = fsync
from pathgene_rt.cli.entry import main
main()
"""


_STOPS_WHILE_IT_WRITES = """
import sys
from pathgene_rt.extraction.feature_journal import FeatureJournal

write = FeatureJournal.write

def stop(self, *batch):
    write(self, *batch)
    if self.path.name == "s1.h5" and FeatureJournal.write is stop:
        FeatureJournal.write = write
        print("the second file is begun", flush=True)
        sys.stdin.readline()

FeatureJournal.write = stop
from pathgene_rt.cli.entry import main
main()
"""


def extract(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_command("extract", *arguments)


def statuses(finished: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {row["slide"]: row["status"] for row in json.loads(finished.stdout)["slides"]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number in range(SLIDES):
        write_slide(folder / f"s{number}.svs", (768, 768), seed=number)
    return folder


def test_a_killed_run_continues(bundle: Path, slides: Path, tmp_path: Path) -> None:
    arguments = ("extract", slides, "--bundle", bundle, "--out", tmp_path, "--json")
    command = [sys.executable, "-c", _KILLED_WHILE_IT_WRITES, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline().startswith("half of the third")
        killed.kill()
    assert sorted(path.name for path in tmp_path.glob("*.h5")) == ["s0.h5", "s1.h5"]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.h5")}

    finished = extract(*arguments[1:])

    assert finished.returncode == 0, finished.stderr
    found = statuses(finished)
    assert [found[f"s{number}.svs"][:7] for number in range(SLIDES)] == ["skipped"] * 2 + [
        "done",
        "done",
    ]
    assert written == {path: path.stat().st_mtime_ns for path in written}
    for number in range(SLIDES):
        assert len(read_features(tmp_path / f"s{number}.h5")) > 0
    assert "1/4 s0.svs: skipped" in finished.stderr
    assert "3/4 s2.svs: done" in finished.stderr


def test_a_bad_slide_does_not_stop_the_others(bundle: Path, slides: Path, tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    shutil.copytree(slides, folder)
    (folder / "s1.svs").write_text("this is no slide")
    finished = extract(folder, "--bundle", bundle, "--out", tmp_path / "out", "--json")
    assert finished.returncode == 7
    assert [status for _, status in sorted(statuses(finished).items())] == [
        "done",
        "failed",
        "done",
        "done",
    ]
    assert not (tmp_path / "out" / "s1.h5").exists()


def test_a_damaged_file_is_written_again(bundle: Path, slides: Path, tmp_path: Path) -> None:
    slide = slides / "s0.svs"
    assert extract(slide, "--bundle", bundle, "--out", tmp_path).returncode == 0
    file = tmp_path / "s0.h5"
    bag, whole = read_features(file), file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    finished = extract(slide, "--bundle", bundle, "--out", tmp_path, "--json")
    assert statuses(finished) == {"s0.svs": "done"}
    again = read_features(file)
    np.testing.assert_array_equal(again.xy, bag.xy)
    np.testing.assert_allclose(again.features, bag.features, atol=1e-5)


def test_a_flipped_bit_in_a_finished_file_is_noticed(
    bundle: Path, slides: Path, tmp_path: Path
) -> None:
    arguments = (slides / "s0.svs", "--bundle", bundle, "--out", tmp_path, "--json")
    assert extract(*arguments).returncode == 0
    file = tmp_path / "s0.h5"
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[-10] ^= 1
    file.write_bytes(damaged)
    finished = extract(*arguments)
    assert statuses(finished) == {"s0.svs": "done"} and "another checksum" in finished.stderr
    assert file.read_bytes() == whole


def test_another_scale_other_tiles_or_a_rescan_are_not_done_before(
    bundle: Path, slides: Path, tmp_path: Path
) -> None:
    slide, out = tmp_path / "s.svs", tmp_path / "out"
    shutil.copy2(slides / "s0.svs", slide)
    coords = tmp_path / "coords.h5"
    with h5py.File(coords, "w") as file:
        file["coords"] = np.array([[0, 0], [64, 64]])
        file["coords"].attrs.update({"patch_size": 64, "patch_level": 0})

    def run(*more: object) -> tuple[str, str]:
        finished = extract(slide, "--bundle", bundle, "--out", out, "--json", *more)
        return statuses(finished).get("s.svs", ""), finished.stderr

    assert run()[0] == "done"
    assert run()[0].startswith("skipped")
    status, said = run("--coords", coords)
    assert status == "done" and "--coords differ" in said
    assert read_features(out / "s.h5").xy.tolist() == [[0, 0], [64, 64]]
    assert run("--coords", coords)[0].startswith("skipped")
    before = read_features(out / "s.h5").features
    write_slide(slide, (768, 768), seed=9)
    status, said = run("--coords", coords)
    assert status == "done" and "the slide differ" in said
    assert (read_features(out / "s.h5").features != before).any()
    os.utime(slide, ns=(5, 5))
    status, said = run("--coords", coords)
    assert status.startswith("skipped") and "has another time than before" in said


def test_a_result_that_another_process_writes_is_left_to_it(
    bundle: Path, slides: Path, tmp_path: Path
) -> None:
    arguments = ("extract", slides, "--bundle", bundle, "--out", tmp_path, "--json")
    command = [sys.executable, "-c", _STOPS_WHILE_IT_WRITES, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline().startswith("the second file is begun")
        second = extract(*arguments[1:], "--threads", 1)
        assert second.returncode == 7
        found = statuses(second)
        assert found.pop("s1.svs") == "failed" and "s1.h5: another process" in second.stderr
        assert found.pop("s0.svs").startswith("skipped") and set(found.values()) == {"done"}
        first.communicate("\n")
    assert first.returncode == 0, "the first is not disturbed"
    assert extract(*arguments[1:]).returncode == 0
    for number in range(SLIDES):
        features = read_features(tmp_path / f"s{number}.h5").features
        assert (np.abs(features).sum(axis=1) > 0).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"s{number}.h5" for number in range(SLIDES)
    ]


def test_what_cannot_be_read_now_is_neither_taken_nor_replaced(
    bundle: Path, slides: Path, tmp_path: Path
) -> None:
    file = tmp_path / "s0.h5"
    with h5py.File(file, "w") as clam:
        clam["features"] = np.ones((2, 4), np.float32)
        clam["coords"] = np.array([[0, 0], [256, 0]])
    before = file.read_bytes()
    with h5py.File(file, "a"):
        finished = extract(slides, "--bundle", bundle, "--out", tmp_path, "--json")
        assert finished.returncode == 7
        found = statuses(finished)
        assert found.pop("s0.svs") == "failed" and set(found.values()) == {"done"}
        assert "another program has it open" in finished.stderr
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"garbage" * 99], ids=["empty", "garbage"])
def test_a_bad_file_that_is_not_ours_is_not_replaced(
    content: bytes, bundle: Path, slides: Path, tmp_path: Path
) -> None:
    (tmp_path / "s0.h5").write_bytes(content)
    finished = extract(slides / "s0.svs", "--bundle", bundle, "--out", tmp_path)
    assert finished.returncode == 2 and "not known to be ours" in finished.stderr
    assert (tmp_path / "s0.h5").read_bytes() == content


@pytest.mark.parametrize("kind", ["another encoder", "another tool"])
def test_features_of_others_are_neither_taken_nor_replaced(
    kind: str, bundle: Path, slides: Path, tmp_path: Path
) -> None:
    file = tmp_path / "s0.h5"
    if kind == "another tool":
        with h5py.File(file, "w") as clam:
            clam["features"] = np.ones((2, 4), np.float32)
            clam["coords"] = np.array([[0, 0], [256, 0]])
    else:
        assert extract(slides / "s0.svs", "--bundle", bundle, "--out", tmp_path).returncode == 0
        write_features(file, replace(read_features(file), encoder_sha256="ab" * 32))
    before = file.read_bytes()
    finished = extract(slides, "--bundle", bundle, "--out", tmp_path, "--quiet")
    assert finished.returncode == 2
    assert "1 files are of another encoder or tool" in finished.stderr
    assert file.read_bytes() == before
    assert len(list(tmp_path.glob("*.h5"))) == 1, "nothing was computed"
    assert extract(slides, "--bundle", bundle, "--out", tmp_path, "--overwrite").returncode == 0
    with Bundle.open(bundle) as opened:
        assert is_complete_features(file, opened.encoder.weights_sha256)
