"""Feature files: ours, CLAM's, TRIDENT's, damaged ones, and a disk that fills up."""

from __future__ import annotations

import errno
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathgene_rt.errors import FeatureFileError, FileAccessError, OutputError, UsageError
from pathgene_rt.features.bag import FeatureBag, tile_spacing_px
from pathgene_rt.features.hdf5 import is_complete_features, is_ours, read_features, write_features

XY = np.array([[0, 0], [512, 0], [1024, 0], [0, 512], [1024, 512]], np.int32)
SHA = "ab" * 32


def make_bag(xy: np.ndarray = XY, width: int = 7, **changes) -> FeatureBag:
    features = np.random.default_rng(5).standard_normal((len(xy), width)).astype(np.float32)
    given = {"tile_px": 256, "mpp": 0.5, "span_px": 512.0, "encoder_sha256": SHA, **changes}
    return FeatureBag("slide 1", features, xy, **given)


def write_foreign(path: Path, features, coords=XY, attributes=None, on_features=None) -> Path:
    with h5py.File(path, "w") as file:
        file["features"] = features
        file["coords"] = coords
        file["coords"].attrs.update(attributes or {})
        file["features"].attrs.update(on_features or {})
    return path


def test_round_trip(tmp_path: Path) -> None:
    bag = make_bag(span_px=512.25, encoder_sha256=None)
    write_features(tmp_path / "features.h5", bag)
    back = read_features(tmp_path / "features.h5")
    np.testing.assert_array_equal(back.features, bag.features)
    np.testing.assert_array_equal(back.xy, bag.xy)
    assert back.features.dtype == np.float32 and back.xy.dtype == np.int32
    assert (back.slide_id, back.tile_px, back.mpp) == ("slide 1", 256, 0.5)
    assert (back.span_px, back.encoder_sha256) == (512.25, None)
    assert back.coords.tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [2, 1]]
    assert len(back) == 5


@pytest.mark.parametrize(("tiles", "width"), [(1, 1), (1, 768), (700, 33), (20_000, 8)])
def test_files_are_plain_hdf5_as_clam_reads_them(tmp_path: Path, tiles: int, width: int) -> None:
    bag = make_bag(np.arange(2 * tiles, dtype=np.int32).reshape(-1, 2), width)
    write_features(tmp_path / "f.h5", bag)
    with h5py.File(tmp_path / "f.h5", "r") as file:
        assert sorted(file) == ["coords", "features"]
        assert file["features"].dtype == np.float32 and file["coords"].dtype == np.int32
        np.testing.assert_array_equal(file["features"][:], bag.features)
        np.testing.assert_array_equal(file["coords"][:], bag.xy)
        attributes = dict(file["coords"].attrs)
    assert (attributes["patch_size"], attributes["patch_level"]) == (512, 0)
    assert (attributes["name"], attributes["encoder_sha256"]) == ("slide 1", SHA)


def test_no_path_gets_into_the_file(tmp_path: Path) -> None:
    write_features(tmp_path / "f.h5", make_bag())
    assert str(tmp_path).encode() not in (tmp_path / "f.h5").read_bytes()


def test_equal_bags_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        write_features(tmp_path / name, make_bag())
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_clam_features_without_attributes(tmp_path: Path) -> None:
    features = np.ones((5, 4), np.float32)
    bag = read_features(write_foreign(tmp_path / "TCGA-05.h5", features, XY.astype(np.int64)))
    assert (bag.slide_id, bag.tile_px, bag.span_px) == ("TCGA-05", 0, 512.0)
    assert math.isnan(bag.mpp) and bag.encoder_sha256 is None


def test_clam_patch_size_counts_pixels_of_its_level(tmp_path: Path) -> None:
    attributes = {"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0), "name": "x"}
    bag = read_features(write_foreign(tmp_path / "x.h5", np.ones((5, 4)), XY, attributes))
    assert bag.span_px == 1024.0


@pytest.mark.parametrize("shape", [(5, 4), (1, 5, 4)])
def test_trident_features(tmp_path: Path, shape: tuple[int, ...]) -> None:
    attributes = {
        "patch_size": 256,
        "patch_size_level0": 512,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "name": "other",
    }
    values = np.arange(20, dtype=np.float16).reshape(shape)
    path = write_foreign(
        tmp_path / "s.h5", values, XY.astype(np.int64), attributes, {"encoder": "ctranspath"}
    )
    bag = read_features(path)
    assert bag.features.shape == (5, 4) and bag.features.dtype == np.float32
    assert bag.features[4, 3] == 19
    assert (bag.slide_id, bag.tile_px, bag.span_px) == ("s", 256, 512.0)
    assert math.isnan(bag.mpp), "a magnification is no scale"


def test_spacing_of_two_contours_whose_grids_do_not_line_up() -> None:
    first = np.stack(np.meshgrid(np.arange(4) * 512, np.arange(4) * 512), -1).reshape(-1, 2)
    second = first + np.array([5003, 9])
    both = np.concatenate([first, second]).astype(np.int32)
    assert tile_spacing_px(both) == 512
    assert tile_spacing_px(XY[:1]) is None
    assert tile_spacing_px(np.array([[0, 0], [512, 512]], np.int32)) is None


@given(st.integers(1, 4000), st.integers(2, 9), st.integers(1, 9), st.randoms())
def test_spacing_of_any_full_grid(span: int, columns: int, rows: int, random) -> None:
    grid = [(x * span, y * span) for x in range(columns) for y in range(rows)]
    random.shuffle(grid)
    assert tile_spacing_px(np.array(grid, np.int32)) == span


def damage_nan(path: Path) -> None:
    features = np.ones((5, 4), np.float32)
    features[3, 2] = np.nan
    write_foreign(path, features)


def only(name: str, value) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file[name] = value

    return write


def cut_in_half(path: Path) -> None:
    write_features(path, make_bag())
    path.write_bytes(path.read_bytes()[:-40])


def claim_too_much(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (10**9, 768), "f4", chunks=(1, 768))
        file["coords"] = XY


def group_instead(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("features")
        file["coords"] = XY


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_bytes(b"not HDF5 at all"), "HDF5"),
        (lambda path: path.write_bytes(b""), "HDF5"),
        (lambda path: path.mkdir(), "no such file"),
        (lambda path: None, "no such file"),
        (cut_in_half, "HDF5"),
        (only("coords", XY), "'features'"),
        (only("features", np.ones((5, 4))), "'coords'"),
        (group_instead, "'features'"),
        (claim_too_much, "claims"),
        (lambda path: write_foreign(path, np.ones((4, 4))), "do not belong together"),
        (lambda path: write_foreign(path, np.ones(5)), "one vector of 5 numbers"),
        (lambda path: write_foreign(path, np.ones((2, 5, 4))), "shape"),
        (lambda path: write_foreign(path, np.ones((5, 4)), np.ones((5, 3))), "[5, 3]"),
        (lambda path: write_foreign(path, np.ones((0, 4)), np.ones((0, 2))), "no tile"),
        (lambda path: write_foreign(path, np.array([[b"a"]] * 5)), "not numbers"),
        (lambda path: write_foreign(path, np.ones((5, 4)), XY * 1e9), "level-0"),
        (damage_nan, "tile 3"),
    ],
)
def test_malformed_files_are_one_line_errors(
    tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "bad.h5"
    damage(path)
    with pytest.raises(FeatureFileError) as caught:
        read_features(path)
    assert says in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not is_complete_features(path)


def test_a_flipped_bit_in_a_finished_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    write_features(path, make_bag())
    whole = path.read_bytes()
    for stored in (make_bag().features, XY):
        damaged = bytearray(whole)
        damaged[whole.index(stored.tobytes()) + 5] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(FeatureFileError, match="another checksum"):
            read_features(path)
        assert not is_complete_features(path) and is_ours(path)


def test_files_of_older_versions_have_no_checksum_and_are_read(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    write_features(path, make_bag())
    with h5py.File(path, "a") as file:
        del file["coords"].attrs["rows_crc32"]
    np.testing.assert_array_equal(read_features(path).features, make_bag().features)
    assert is_complete_features(path, SHA)


def test_values_that_another_tool_stored_in_another_way_are_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    write_features(path, make_bag())
    with h5py.File(path, "a") as file:
        attributes = dict(file["coords"].attrs)
        del file["features"], file["coords"]
        file.create_dataset("features", data=make_bag().features, compression="gzip")
        file.create_dataset("coords", data=XY.astype(np.int64)).attrs.update(attributes)
    np.testing.assert_array_equal(read_features(path).features, make_bag().features)


def test_what_cannot_be_read_now_is_not_called_damaged(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "f.h5", np.ones((5, 4)))
    holds = "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holds, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        for read in (read_features, is_complete_features):
            with pytest.raises(FileAccessError, match="another program has it open"):
                read(path)
        holder.communicate(b"\n")
    assert read_features(path).features.shape == (5, 4)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux fails to read it: EIO")
def test_a_failing_disk_is_not_called_damage() -> None:
    with pytest.raises(FileAccessError, match="Input/output error"):
        read_features(Path("/proc/self/mem"))


def test_senseless_attributes_count_as_absent(tmp_path: Path) -> None:
    attributes = {"mpp": "half", "tile_px": -4, "span_px": np.nan, "encoder_sha256": b"abc"}
    bag = read_features(write_foreign(tmp_path / "x.h5", np.ones((5, 4)), XY, attributes))
    assert math.isnan(bag.mpp)
    assert (bag.tile_px, bag.span_px, bag.encoder_sha256) == (0, 512.0, "abc")


def test_complete_means_whole_ours_and_by_that_encoder(tmp_path: Path) -> None:
    write_features(tmp_path / "ours.h5", make_bag())
    assert is_complete_features(tmp_path / "ours.h5")
    assert is_complete_features(tmp_path / "ours.h5", SHA)
    assert not is_complete_features(tmp_path / "ours.h5", "cd" * 32)
    write_foreign(tmp_path / "clam.h5", np.ones((5, 4)))
    assert not is_complete_features(tmp_path / "clam.h5")


def test_bags_whose_arrays_do_not_belong_together() -> None:
    with pytest.raises(UsageError, match=r"\[N, D\]"):
        FeatureBag("s", np.ones((4, 3), np.float32), XY, 256, 0.5, 512.0, None)


def test_an_empty_bag_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no features"):
        write_features(tmp_path / "f.h5", make_bag(XY[:0]))
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_survives_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.h5"
    write_features(path, make_bag())
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathgene_rt.features.hdf5.os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_features(path, make_bag(width=9))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("limit", [2_000, 400_000])
def test_a_disk_that_fills_up_is_an_error_not_a_crash(tmp_path: Path, limit: int) -> None:
    """A real write failure, in a process of its own: HDF5 itself dies of a segmentation fault."""
    resource = pytest.importorskip("resource", reason="file size limits are POSIX's")
    assert resource.RLIMIT_FSIZE is not None
    code = f"""
import resource, signal
from pathlib import Path
import numpy as np
from pathgene_rt.errors import OutputError
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.hdf5 import write_features
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
features, xy = np.ones((5000, 64), np.float32), np.zeros((5000, 2), np.int32)
try:
    write_features(Path("f.h5"), FeatureBag("s", features, xy, 256, 0.5, 512.0, None))
except OutputError:
    raise SystemExit(2)
"""
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2, finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        write_features(tmp_path / "absent" / "f.h5", make_bag())
