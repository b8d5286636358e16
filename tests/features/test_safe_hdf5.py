"""An HDF5 file reaches nothing outside itself, claims no more than it holds, and cannot hang us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pathgene_rt.errors import FeatureFileError
from pathgene_rt.features.hdf5 import read_coords, read_features
from pathgene_rt.features.hdf5_worker import UnsafeFileError
from pathgene_rt.features.safe_hdf5 import open_hdf5

ROWS = np.arange(24, dtype=np.float32).reshape(6, 4)
CORNERS = np.stack([np.arange(6) * 64, np.zeros(6)], axis=1).astype(np.int32)


def written(path: Path, **options: object) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=CORNERS)
        file.create_dataset("features", data=ROWS, **options)
        file["coords"].attrs["patch_size"] = 64
        file["coords"].attrs["patch_level"] = 0
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": ">f8"},
        {"dtype": "f2"},
        {"chunks": (1, 4)},
        {"chunks": (4, 3)},
        {"chunks": (4, 4), "compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf"},
        {"maxshape": (None, 4)},
    ],
)
def test_rows_are_those_that_h5py_reads(tmp_path: Path, options: dict[str, object]) -> None:
    path = written(tmp_path / "s.h5", **options)
    bag = read_features(path)
    assert np.array_equal(bag.features, ROWS)
    assert np.array_equal(bag.xy, CORNERS)
    assert bag.span_px == 64
    with h5py.File(path) as theirs, open_hdf5(path) as ours:
        assert ours.shape("features") == theirs["features"].shape
        assert ours.dtype("features") == theirs["features"].dtype
        assert np.array_equal(ours.rows("features"), theirs["features"][()])


def test_one_page_of_features_and_rows_of_more_than_a_slice(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((9000, 600), dtype=np.float32)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("paged", data=rows[None], chunks=(1, 100, 600))
        file.create_dataset("chunked", data=rows, chunks=(100, 600))
        file.create_dataset("compact", data=rows[:2, :10])
    with open_hdf5(tmp_path / "s.h5") as file:
        assert np.array_equal(file.rows("paged")[0], rows)
        assert np.array_equal(file.rows("chunked"), rows)
        assert np.array_equal(file.rows("compact"), rows[:2, :10])


def test_attributes_are_numbers_and_texts(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.h5", "w") as file:
        coords = file.create_dataset("coords", data=CORNERS)
        file.attrs["text"] = "outer"
        file.attrs["kept"] = np.float64(0.5)
        coords.attrs["text"] = "inner"
        coords.attrs["bytes"] = np.bytes_(b"caf\xe9")
        coords.attrs["pair"] = np.array([1, 2], np.int64)
        coords.attrs["huge"] = np.zeros(1000)
        coords.attrs["reference"] = coords.ref
    with open_hdf5(tmp_path / "s.h5") as file:
        assert file.attributes("coords") == {
            "text": "inner",
            "kept": 0.5,
            "bytes": "caf\ufffd",
            "pair": [1, 2],
        }


def linked(file: h5py.File) -> None:
    file["other"] = file["features"]
    del file["features"]
    file["features"] = h5py.SoftLink("/other")


def linked_outside(file: h5py.File) -> None:
    del file["features"]
    file["features"] = h5py.ExternalLink("other.h5", "features")


def stored_outside(file: h5py.File) -> None:
    del file["features"]
    secret = Path(file.filename).with_name("secret")
    secret.write_bytes(bytes(range(24)))
    file.create_dataset("features", (6, 4), "u1", external=[(str(secret), 0, 24)])


def virtual(file: h5py.File) -> None:
    del file["features"]
    layout = h5py.VirtualLayout((6, 4), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "features", (6, 4))
    file.create_virtual_dataset("features", layout)


def never_filled(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (4_000_000, 512), "f4", chunks=(1000, 512))


def never_written(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (6, 4), "f4")


def huge_chunks(file: h5py.File) -> None:
    del file["features"]
    data = file.create_dataset("features", (6, 4), "f4", chunks=(6, 1 << 27), maxshape=(6, None))
    data.id.write_direct_chunk((0, 0), b"x")


def of_objects(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (6,), h5py.string_dtype())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (linked, "'features' is a link to another place"),
        (linked_outside, "'features' is a link to another place"),
        (stored_outside, "'features' keeps its rows in another file"),
        (virtual, "'features' is put together from other files"),
        (never_filled, "'features' claims 4000 chunks, of which the file holds 0 bytes"),
        (never_written, "'features' has no rows in the file"),
        (huge_chunks, "'features' has chunks of 3221225472 bytes"),
        (of_objects, "not numbers"),
    ],
)
def test_what_reaches_out_or_claims_too_much_is_refused(
    tmp_path: Path, damage: Callable[[h5py.File], None], words: str
) -> None:
    path = written(tmp_path / "s.h5")
    written(tmp_path / "other.h5")
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(FeatureFileError, match=words):
        read_features(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ext", "keeps its rows in another file"),
        ("link", "is a link to another place"),
        ("bomb", "claims 4000 chunks"),
        ("in1_1659_x", "Insufficient precision"),
    ],
)
def test_hostile_files_are_refused_in_one_line(shared: Path, name: str, words: str) -> None:
    path = shared / "crashers" / "h5" / f"{name}.h5"
    with pytest.raises(FeatureFileError, match=words) as caught:
        read_features(path)
    assert "\n" not in str(caught.value)


def test_senseless_attributes_are_taken_as_absent(shared: Path) -> None:
    bag = read_features(shared / "crashers" / "h5" / "attrbomb.h5")
    assert bag.tile_px == 0
    assert bag.span_px == 64
    assert np.array_equal(bag.coords[:, 0], bag.xy[:, 0] // 64)


@pytest.mark.world
def test_a_file_that_the_library_loops_on_is_refused(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its attribute points at a heap that points at itself. Others can be read afterwards."""
    path = shared / "crashers" / "h5" / "in1_1659_x.h5"
    with pytest.raises(FeatureFileError, match="crashed or did not come to an end"):
        read_coords(path)
    assert np.array_equal(read_features(written(tmp_path / "s.h5")).features, ROWS)


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    path = written(tmp_path / "s.h5")
    with pytest.raises(UnsafeFileError, match="crashed"), open_hdf5(path) as file:
        file._worker._process.kill()
        file._worker._process.wait()
        file.shape("features")
    assert np.array_equal(read_features(path).features, ROWS)


def test_a_worker_that_does_not_answer_says_nothing_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "win32":
        pytest.skip("stops a process")
    monkeypatch.setattr("pathgene_rt.features.safe_hdf5.TIMEOUT_S", 0.2)
    path = written(tmp_path / "s.h5")
    with pytest.raises(TimeoutError), open_hdf5(path) as file:
        os.kill(file._worker._process.pid, signal.SIGSTOP)
        file.shape("features")


def test_threads_read_at_once(tmp_path: Path) -> None:
    paths = []
    for number in range(4):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file.create_dataset("features", data=ROWS + number, chunks=(2, 2))
            file.create_dataset("coords", data=CORNERS)
        paths.append(tmp_path / f"{number}.h5")
    found: dict[int, list[bool]] = {number: [] for number in range(4)}

    def read(number: int) -> None:
        for _ in range(5):
            found[number].append(
                np.array_equal(read_features(paths[number]).features, ROWS + number)
            )

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [True] * 5 for number in range(4)}


def test_no_module_of_the_working_folder_is_imported(tmp_path: Path) -> None:
    (tmp_path / "h5py.py").write_text("raise SystemExit('run from the working folder')")
    (tmp_path / "json.py").write_text("raise SystemExit('run from the working folder')")
    path = written(tmp_path / "s.h5")
    program = (
        f"from pathlib import Path\nfrom pathgene_rt import read_features\n"
        f"print(read_features(Path({str(path)!r})).features.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "(6, 4)\n", done.stderr
