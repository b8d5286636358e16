"""Features that training reads: CLAM's and TRIDENT's folders, .pt files, memory."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pathgene_rt.errors import FeatureFileError, UsageError
from pathgene_rt.evaluation.labels import read_labels
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.hdf5 import write_features
from pathgene_rt.heads.run import HeadInputs
from pathgene_rt.training.data.cohort import BagStore, select_cohort
from pathgene_rt.training.data.feature_files import find_feature_files, read_bag

XY = np.array([[0, 0], [512, 0], [0, 512]], np.int64)
FEATURES = np.arange(12, dtype=np.float32).reshape(3, 4)


def write_pt(path: Path, content: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(FEATURES.copy()) if content is None else content, path)
    return path


def write_h5(path: Path, *, features: bool = True, xy: np.ndarray = XY, **attributes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["coords"] = xy
        file["coords"].attrs.update(attributes)
        if features:
            file["features"] = FEATURES
    return path


def test_clams_folder(tmp_path: Path) -> None:
    write_pt(tmp_path / "pt_files" / "a.pt")
    both = write_h5(tmp_path / "h5_files" / "a.h5")
    alone = write_pt(tmp_path / "pt_files" / "b.pt")
    assert find_feature_files(tmp_path) == {"a": both, "b": alone}


def test_tridents_folders(tmp_path: Path) -> None:
    job = tmp_path / "20x_256px_0px_overlap"
    file = write_h5(job / "features_ctranspath" / "a.h5")
    write_h5(job / "patches" / "a_patches.h5", features=False)
    write_h5(job / "slide_features_threads" / "a.h5")
    for folder in (tmp_path, job, job / "features_ctranspath"):
        assert find_feature_files(folder) == {"a": file}
    write_h5(job / "features_uni" / "a.h5")
    with pytest.raises(UsageError, match=r"features of 2 extractions \(20x_256px_0px_overlap/f"):
        find_feature_files(tmp_path)


def test_a_cohort_of_clams_tensors(tmp_path: Path) -> None:
    """PathGene's tables name .pt files by Windows paths, in a file with a byte order mark."""
    for name in ("TCGA-05-4249.9f", "TCGA-05-4250.aa"):
        write_pt(tmp_path / "LUAD" / "pt_files" / f"{name}.pt")
    table = tmp_path / "egfr.csv"
    rows = "path,label,Fold\r\n.\\LUAD\\pt_files\\TCGA-05-4249.9f.pt,0,1\r\n"
    table.write_bytes((rows + ".\\LUAD\\pt_files\\TCGA-05-4250.aa.pt,1,0\r\n").encode("utf-8-sig"))
    cohort = select_cohort(read_labels(table, r"TCGA-\w\w-\w{4}"), "label", tmp_path / "LUAD")
    assert [(slide.case_id, slide.label) for slide in cohort.slides] == [
        ("TCGA-05-4249", 0),
        ("TCGA-05-4250", 1),
    ]
    store = BagStore(0)
    for slide in cohort.slides:
        assert store.read(slide.features).features.tolist() == FEATURES.tolist()


@pytest.mark.parametrize(
    "places", ["h5_files/a.h5", "patches/a.h5", "given/a.h5", "given/a_patches.h5"]
)
def test_places_of_a_tensor_come_from_another_file(places: str, tmp_path: Path) -> None:
    file = write_pt(tmp_path / "pt_files" / "a.pt")
    write_h5(tmp_path / places, features=False, patch_level=1, patch_size=256, downsample=(4, 4))
    bag = read_bag(file, tmp_path / "given" if "given" in places else None)
    assert bag.xy.tolist() == XY.tolist()
    assert bag.span_px == 1024
    assert (bag.slide_id, bag.encoder_sha256) == ("a", None)
    assert math.isnan(bag.mpp)


def test_a_tensor_without_places_serves_heads_that_need_none(tmp_path: Path) -> None:
    file = write_pt(tmp_path / "pt_files" / "a.pt", torch.from_numpy(FEATURES)[None].half())
    inputs = HeadInputs(read_bag(file))
    assert inputs["features"].tolist() == FEATURES.tolist()
    assert inputs["features"].dtype == np.float32
    for name in ("coords", "neighbours", "regions", "edges"):
        with pytest.raises(FeatureFileError, match=r"a\.pt: holds features without coordinates"):
            inputs[name]


def test_places_must_fit(tmp_path: Path) -> None:
    file = write_pt(tmp_path / "pt_files" / "a.pt")
    write_h5(tmp_path / "few" / "a.h5", features=False, xy=XY[:2])
    with pytest.raises(FeatureFileError, match=r"few.a\.h5: 3 features and coords \[2, 2\] do not"):
        read_bag(file, tmp_path / "few")
    with pytest.raises(FeatureFileError, match=r"a\.pt: .*none has no coordinates a\.h5"):
        read_bag(file, tmp_path / "none")


def _with_nan() -> torch.Tensor:
    features = torch.from_numpy(FEATURES.copy())
    features[1, 2] = math.nan
    return features


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_with_nan(), "features of tile 1 hold NaN"),
        ({"state_dict": {}}, "holds a dict, not a tensor"),
        (torch.zeros(4), r"tensor of shape \[4\], not \[tiles, D\]"),
        (torch.zeros(2, 3, 4), r"tensor of shape \[2, 3, 4\]"),
        (torch.zeros(0, 4), "holds no tile"),
        (torch.zeros(3, 4, dtype=torch.int64), "not features"),
        (Path("a pickled object"), "is no file of features"),
    ],
)
def test_refuses_tensors_that_are_no_features(
    content: object, message: str, tmp_path: Path
) -> None:
    path = write_pt(tmp_path / "a.pt", content)
    with pytest.raises(FeatureFileError, match=message) as caught:
        read_bag(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refuses_bytes_that_are_no_file_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(FeatureFileError, match=r"a\.pt: "):
        read_bag(path)


def test_tensors_of_another_width_are_named(tmp_path: Path) -> None:
    store = BagStore(0)
    store.read(write_pt(tmp_path / "a.pt"))
    with pytest.raises(FeatureFileError, match=r"b\.pt holds features of width 5, a\.pt of 4"):
        store.read(write_pt(tmp_path / "b.pt", torch.zeros(2, 5)))


@pytest.mark.parametrize("cached", [0, 4])
def test_memory_holds_the_cache_and_a_bag_not_the_cohort(cached: int, tmp_path: Path) -> None:
    tiles, width, bags = 1000, 1024, 10
    paths = [tmp_path / f"s{number}.h5" for number in range(bags)]
    for number, path in enumerate(paths):
        features = np.full((tiles, width), number, np.float32)
        xy = np.zeros((tiles, 2), np.int32)
        write_features(path, FeatureBag(path.stem, features, xy, 256, 0.5, 256.0, None))
        size = features.nbytes + xy.nbytes
    store = BagStore(cached * size)
    tracemalloc.start()
    for _ in range(2):
        for number, path in enumerate(paths):
            assert store.read(path).features[-1, -1] == number
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert cached * size < peak < (cached + 1.5) * size
