"""Features, checkpoints, results and disks as people have them."""

from __future__ import annotations

import fcntl
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from pathgene_rt.batch import assign_ids
from pathgene_rt.errors import FeatureFileError, FileAccessError
from pathgene_rt.export import upstream
from pathgene_rt.extraction.result_identity import ResultIdentity
from pathgene_rt.features.hdf5 import read_features
from pathgene_rt.locks import sole_writer
from pathgene_rt.options import PredictOptions
from pathgene_rt.slides.find import find_slides
from pathgene_rt.training.checkpoint import read_torch_file
from pathgene_rt.training.data.feature_files import UnplacedBag, read_bag
from tests.field.conftest import WriteCase

pytestmark = pytest.mark.world

ROWS = np.random.default_rng(0).normal(size=(12, 16)).astype("f4")
CHECKPOINTS = (
    "dataparallel.pt", "compiled.pt", "compiled_ddp.pt", "ddp_compiled.pt", "lightning.pt",
    "lightning_compiled.pt", "lightning_with_loss_weights.pt", "half.pt", "bfloat16.pt",
    "model_state_dict.pt", "with_args.pt", "head.safetensors",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "tiles", "placed"),
    [
        ("float16.h5", 12, True),
        ("float64.h5", 12, True),
        ("one_n_d.h5", 12, True),
        ("uint64_coords.h5", 12, True),
        ("single_tile_squeezed.h5", 1, True),
        ("no_coords.h5", 12, False),
        ("stamp.h5", 12, True),
        ("atlaspatch.h5", 12, True),
        ("half.pt", 12, False),
        ("one_n_d.pt", 12, False),
        ("dict.pt", 12, True),
        ("parameter.pt", 12, False),
    ],
)
def test_features_of_other_tools(
    field_case: WriteCase, name: str, tiles: int, placed: bool
) -> None:
    bag = read_bag(field_case("feature_files") / name)
    np.testing.assert_allclose(bag.features, ROWS[:tiles], rtol=2e-3, atol=2e-3)
    assert isinstance(bag, UnplacedBag) is not placed
    if placed:
        assert bag.coords.tolist() == [[column, 0] for column in range(tiles)]


def test_an_array_that_only_numpys_own_code_unpickles(field_case: WriteCase) -> None:
    with pytest.raises(FeatureFileError, match=r"torch\.from_numpy"):
        read_bag(field_case("feature_files") / "numpy_array.pt")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_as_people_save_them(field_case: WriteCase, name: str) -> None:
    folder = field_case("checkpoints")
    plain = upstream.load("clam_sb", read_torch_file(folder / "plain.pt")).state_dict()
    loaded = upstream.load("clam_sb", read_torch_file(folder / name)).state_dict()
    loose = name in ("half.pt", "bfloat16.pt")
    torch.testing.assert_close(
        {key: value.float() for key, value in loaded.items()},
        plain,
        rtol=1e-2 if loose else 0,
        atol=1e-3 if loose else 0,
    )


def test_a_rescan_under_the_same_name_is_another_slide(field_case: WriteCase) -> None:
    folder = field_case("stale_results")
    options = PredictOptions()
    first = ResultIdentity.of(folder / "first" / "s.svs", options, "auto")
    rescan = ResultIdentity.of(folder / "rescan" / "s.svs", options, "auto")
    assert rescan.differences(first.to_dict(), partial=False) == ["the slide"]
    other = ResultIdentity.of(folder / "first" / "s.svs", PredictOptions(mpp=0.4), "auto")
    assert other.differences(first.to_dict(), partial=False) == ["--mpp"]


def test_a_disk_without_locks_has_one_writer_all_the_same(
    field_case: WriteCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", fcntl.flock)  # what the script replaces comes back
    runpy.run_path(str(field_case("no_flock") / "sitecustomize.py"))
    result = tmp_path / "s.h5"
    with (
        sole_writer(result),
        pytest.raises(FileAccessError, match="another process"),
        sole_writer(result),
    ):
        pass
    with sole_writer(result):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_crowd_of_dicom_slides_is_found_by_its_headers(
    field_case: WriteCase, shared: Path
) -> None:
    pytest.importorskip("pydicom", reason="the script needs pydicom")
    slides = find_slides([str(field_case("dicom_crowd", shared / "slides", 40))])
    assert len(slides) == 40
    assert len({slide_id.casefold() for slide_id in assign_ids(slides).values()}) == 40


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ext", "another file"),
        ("link", "another place"),
        ("bomb", "claims 4000 chunks"),
        ("in1_1659_x", "cannot be read as HDF5"),
    ],
)
def test_hostile_features_are_refused(shared: Path, name: str, words: str) -> None:
    with pytest.raises(FeatureFileError, match=words) as caught:
        read_features(shared / "crashers" / "h5" / f"{name}.h5")
    assert "\n" not in str(caught.value)


def test_every_hostile_features_file_is_tried(shared: Path) -> None:
    found = {path.stem for path in (shared / "crashers" / "h5").iterdir()}
    assert found == {"ext", "link", "bomb", "in1_1659_x", "attrbomb"}
    assert read_features(shared / "crashers" / "h5" / "attrbomb.h5").tile_px == 0
