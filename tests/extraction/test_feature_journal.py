"""Features on their way to the disk: what a killed run left is taken over, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from pathgene_rt import EngineOptions, PredictOptions, Predictor
from pathgene_rt.engines.engine import EngineInfo
from pathgene_rt.errors import OutputError, SlideReadError
from pathgene_rt.extraction.extract import TileOrder
from pathgene_rt.extraction.feature_journal import FeatureJournal
from pathgene_rt.extraction.result_identity import ResultIdentity
from pathgene_rt.extraction.run_identity import RunIdentity
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.growing import GrowingBag
from pathgene_rt.features.hdf5 import read_features
from pathgene_rt.geometry import TileGrid
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny

TILES, WIDTH, BATCH = 50, 6, 8
RNG = np.random.default_rng(1)
XY = RNG.permuted(np.arange(2 * TILES).reshape(TILES, 2) * 64, axis=0).astype(np.int32)
FEATURES = RNG.standard_normal((TILES, WIDTH)).astype(np.float32)
ORDER = TileOrder(RNG.permutation(TILES), BATCH)


@pytest.fixture
def identity(tmp_path: Path) -> RunIdentity:
    slide = tmp_path / "slide.svs"
    slide.write_bytes(b"pixels")
    made_from = ResultIdentity.of(slide, PredictOptions(), "float32")
    grid = TileGrid(64, 0.5, 0, 64, 64.0, XY, np.ones(TILES, np.float32))
    encoder = tiny.encoder_spec(tiny.tiny_encoder_onnx())
    engine = EngineInfo("openvino", "1", "cpu", "float32", 2)
    return RunIdentity.of(made_from, "reader 1", "exact", grid, ORDER, encoder, engine)


def journal(
    folder: Path, identity: RunIdentity, *, resume: bool
) -> tuple[FeatureJournal, FeatureBag]:
    growing = GrowingBag(WIDTH, TILES)
    bag = FeatureBag("slide", growing.features, XY, 64, 0.5, 64.0, "0" * 64)
    path = folder / "features.h5"
    return FeatureJournal(path, bag, growing, ORDER, identity, resume=resume), bag


def firsts() -> range:
    return range(0, TILES, BATCH)


def write(opened: FeatureJournal, positions) -> None:
    for first in positions:
        rows = ORDER.rows_of(first, BATCH)
        opened.growing.put(rows, FEATURES[rows])
        opened.write(first, rows, FEATURES[rows], f"found={first}")


def begun(folder: Path, identity: RunIdentity, count: int) -> tuple[Path, Path]:
    """A run that was killed after ``count`` batches, the last batch first."""
    opened, _ = journal(folder, identity, resume=False)
    write(opened, list(firsts())[::-1][:count])
    opened.close()
    return folder / "features.h5.partial", folder / "features.h5.partial.log"


def test_a_whole_run_gives_the_file_that_write_features_gives(
    tmp_path: Path, identity: RunIdentity
) -> None:
    opened, _ = journal(tmp_path, identity, resume=False)
    write(opened, firsts())
    opened.commit()
    found = read_features(tmp_path / "features.h5")
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.xy, XY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.h5", "slide.svs"]
    with h5py.File(tmp_path / "features.h5") as file:
        assert file["features"].dtype == np.float32
        assert file["coords"].attrs["level_rule"] == "finer"


@pytest.mark.parametrize("count", range(8))
def test_batches_of_a_killed_run_are_taken_over(
    tmp_path: Path, identity: RunIdentity, count: int
) -> None:
    begun(tmp_path, identity, count)
    opened, bag = journal(tmp_path, identity, resume=True)
    kept = list(firsts())[::-1][:count]
    assert opened.done == set(kept)
    rows = [row for first in kept for row in ORDER.rows_of(first, BATCH)]
    np.testing.assert_array_equal(bag.features[rows], FEATURES[rows])
    assert opened.flags == {first: f"found={first}" for first in kept}
    write(opened, set(firsts()) - opened.done)
    opened.commit()
    np.testing.assert_array_equal(read_features(tmp_path / "features.h5").features, FEATURES)


def test_a_torn_log_loses_its_last_batch_only(tmp_path: Path, identity: RunIdentity) -> None:
    _, log = begun(tmp_path, identity, 4)
    log.write_bytes(log.read_bytes()[:-5])
    opened, _ = journal(tmp_path, identity, resume=True)
    assert len(opened.done) == 3
    write(opened, set(firsts()) - opened.done)
    opened.close()
    again, _ = journal(tmp_path, identity, resume=True)
    assert again.done == set(firsts())


def test_what_was_found_is_under_the_checksum(tmp_path: Path, identity: RunIdentity) -> None:
    _, log = begun(tmp_path, identity, 4)
    log.write_bytes(log.read_bytes().replace(b"found=48\n", b"found=49\n"))
    opened, _ = journal(tmp_path, identity, resume=True)
    assert len(opened.done) == 3 and len(opened.flags) == 3


def test_rows_that_are_not_as_logged_are_encoded_again(
    tmp_path: Path, identity: RunIdentity
) -> None:
    partial, _ = begun(tmp_path, identity, 7)
    content = bytearray(partial.read_bytes())
    content[-3] ^= 1
    partial.write_bytes(content)
    opened, _ = journal(tmp_path, identity, resume=True)
    assert len(opened.done) == 6
    opened.close()
    partial.write_bytes(content[: -TILES * WIDTH * 2])
    opened, _ = journal(tmp_path, identity, resume=True)
    assert len(opened.done) < 6


@pytest.mark.parametrize("log", [b"", b"\n", b"not json\n1 2 3\n", b"\xff" * 100])
def test_a_log_that_is_none_starts_anew(tmp_path: Path, identity: RunIdentity, log: bytes) -> None:
    _, path = begun(tmp_path, identity, 3)
    path.write_bytes(log)
    opened, _ = journal(tmp_path, identity, resume=True)
    assert not opened.done
    write(opened, firsts())
    opened.commit()
    np.testing.assert_array_equal(read_features(tmp_path / "features.h5").features, FEATURES)


def test_records_of_senseless_positions_are_left_out(tmp_path: Path, identity: RunIdentity) -> None:
    _, log = begun(tmp_path, identity, 2)
    senseless = (b"-8 8 0", b"3 8 0", b"4000 8 0", b"99999999999999999999 8 0", b"\xb2 8 0", b"0")
    log.write_bytes(log.read_bytes() + b"\n".join(senseless) + b"\n")
    opened, _ = journal(tmp_path, identity, resume=True)
    assert len(opened.done) == 2


@pytest.mark.parametrize(
    "change",
    [{"precision": "bfloat16"}, {"batch": 16}, {"made_from": "{}"}, {"decode": "scaled"}],
)
def test_another_run_takes_nothing_over(
    tmp_path: Path, identity: RunIdentity, change: dict[str, object]
) -> None:
    begun(tmp_path, identity, 3)
    opened, _ = journal(tmp_path, replace(identity, **change), resume=True)
    assert not opened.done
    assert "differs" in opened.note


def test_a_file_that_another_process_began_anew_gets_no_name(
    tmp_path: Path, identity: RunIdentity
) -> None:
    """What a lock is for: where disks have none that hold, rows must not be lost without a word."""
    opened, _ = journal(tmp_path, identity, resume=False)
    write(opened, list(firsts())[:4])
    journal(tmp_path, replace(identity, threads=7), resume=False)[0].close()
    write(opened, list(firsts())[4:])
    with pytest.raises(OutputError, match="does not hold the rows that were written"):
        opened.commit()
    assert not (tmp_path / "features.h5").exists()


def test_a_partial_file_that_was_replaced_gets_no_name(
    tmp_path: Path, identity: RunIdentity
) -> None:
    opened, _ = journal(tmp_path, identity, resume=False)
    write(opened, firsts())
    partial = tmp_path / "features.h5.partial"
    other = tmp_path / "other"
    other.write_bytes(partial.read_bytes())
    other.replace(partial)
    with pytest.raises(OutputError, match="another process"):
        opened.commit()


def test_a_file_that_lacks_tiles_gets_no_name(tmp_path: Path, identity: RunIdentity) -> None:
    opened, _ = journal(tmp_path, identity, resume=False)
    write(opened, list(firsts())[:-1])
    with pytest.raises(OutputError, match=r"lacks 2 tiles"):
        opened.commit()
    assert not (tmp_path / "features.h5").exists()


def test_without_resume_nothing_is_taken_over(tmp_path: Path, identity: RunIdentity) -> None:
    begun(tmp_path, identity, 3)
    opened, _ = journal(tmp_path, identity, resume=False)
    assert not opened.done


def test_a_whole_file_of_the_same_run_needs_no_encoding(
    tmp_path: Path, identity: RunIdentity
) -> None:
    opened, _ = journal(tmp_path, identity, resume=False)
    write(opened, firsts())
    opened.commit()
    before = (tmp_path / "features.h5").read_bytes()
    again, bag = journal(tmp_path, identity, resume=True)
    assert again.done == set(firsts())
    np.testing.assert_array_equal(bag.features, FEATURES)
    again.commit()
    assert (tmp_path / "features.h5").read_bytes() == before


def test_a_disk_that_fills_up_is_one_error_and_keeps_what_was_written(
    tmp_path: Path, identity: RunIdentity
) -> None:
    resource = pytest.importorskip("resource", reason="file-size limits are POSIX")
    opened, _ = journal(tmp_path, identity, resume=False)
    write(opened, [0, 8])
    size = (tmp_path / "features.h5.partial").stat().st_size
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - TILES * WIDTH * 4, limits[1]))
    try:
        with pytest.raises(OutputError, match="--resume"):
            write(opened, [16, 24, 32])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    opened.close()
    again, _ = journal(tmp_path, identity, resume=True)
    assert again.done >= {0, 8}


def test_a_slide_that_fails_halfway_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathgene_rt.streaming import tile_reader

    write_slide(tmp_path / "slide.svs", (1536, 1280), seed=5)
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    read, count = tile_reader.read_tiles, iter(range(10**6))

    def failing(*arguments, **options):
        if next(count) == 100:
            raise SlideReadError("the network share is gone")
        return read(*arguments, **options)

    # Of fewer tiles than are read before the failure, so that some were written.
    with Predictor.open(bundle, EngineOptions(batch=8, in_flight=2)) as predictor:
        whole, _ = predictor.extract(tmp_path / "slide.svs", out=tmp_path / "whole.h5")
        monkeypatch.setattr(tile_reader, "read_tiles", failing)
        out = tmp_path / "resumed.h5"
        with pytest.raises(SlideReadError):
            predictor.extract(tmp_path / "slide.svs", out=out)
        monkeypatch.undo()
        options = PredictOptions(resume=True)
        resumed, stats = predictor.extract(tmp_path / "slide.svs", options, out=out)
    assert stats.tiles < len(whole)
    np.testing.assert_array_equal(resumed.features, whole.features)
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL, which Windows does not have")
def test_kill_9_and_resume_give_what_an_undisturbed_run_gives(tmp_path: Path) -> None:
    slide, out = tmp_path / "large.svs", tmp_path / "out"
    write_slide(slide, (3072, 2304), seed=1)
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    command = [sys.executable, "-m", "pathgene_rt.cli", "predict", slide, "--bundle", bundle]
    command += ["--features", "--batch", "1", "--no-heatmaps", "--no-geojson", "--no-html"]
    process = subprocess.Popen([*command, "--out", out], stderr=subprocess.PIPE)
    log = out / "large" / "features.h5.partial.log"
    while not (log.exists() and log.read_bytes().count(b"\n") > 30):
        assert process.poll() is None, "the slide was done before it could be killed"
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert not (out / "large" / "features.h5").exists()
    subprocess.run([*command, "--out", out, "--resume"], check=True, capture_output=True)
    subprocess.run([*command, "--out", tmp_path / "whole"], check=True, capture_output=True)
    resumed, whole = (
        json.loads((folder / "large" / "report.json").read_text())
        for folder in (out, tmp_path / "whole")
    )
    assert any("were encoded before" in warning for warning in resumed["warnings"])
    assert resumed["predictions"] == whole["predictions"]
    features = (folder / "large" / "features.h5" for folder in (out, tmp_path / "whole"))
    assert len({path.read_bytes() for path in features}) == 1
    assert sorted(path.name for path in (out / "large").iterdir()) == ["features.h5", "report.json"]
