"""Features as tools lay them out: where the rows are, what the places mean, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pathgene_rt.errors import FeatureFileError
from pathgene_rt.features.hdf5 import read_coords, read_features
from pathgene_rt.training.data.feature_files import UnplacedBag, read_bag

ROWS = np.random.default_rng(0).normal(size=(12, 16)).astype("f4")
XY = np.array([(256 * column, 0) for column in range(12)])


def written(path: Path, datasets: dict[str, Any], **attributes: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, rows in datasets.items():
            file[name] = rows
        file.attrs.update(attributes)
    return path


def stamp(path: Path, **changes: Any) -> Path:
    attributes = {"unit": "um", "tile_size_um": 256.0, "tile_size_px": 224, "feat_type": "tile"}
    datasets = {"feats": ROWS.astype("f2"), "coords": (XY * 0.25).astype("f4")}
    return written(path, datasets, **{**attributes, **changes})


def test_stamps_places_are_micrometres(tmp_path: Path) -> None:
    """Neighbouring tiles of 256 um every 64 um: a quarter of a tile apart."""
    bag = read_features(stamp(tmp_path / "s.h5"))
    assert np.array_equal(bag.features, ROWS.astype("f2").astype("f4"))
    assert (bag.tile_px, bag.span_px, bag.mpp) == (224, 224.0, 256 / 224)
    assert bag.xy[1].tolist() == [56, 0]
    assert bag.coords[::4].tolist() == [[0, 0], [1, 0], [2, 0]]


def test_places_in_um_need_the_size_of_a_tile(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    written(path, {"feats": ROWS, "coords": XY}, unit="um")
    with pytest.raises(FeatureFileError, match="tile_size_um"):
        read_features(path)
    with pytest.raises(FeatureFileError, match="coords in um, not in pixels"):
        read_coords(stamp(tmp_path / "t.h5"))


@pytest.mark.parametrize("columns", [2, 5])
def test_atlaspatchs_group_of_one_encoder(tmp_path: Path, columns: int) -> None:
    places = np.zeros((12, columns), np.int32)
    places[:, :2] = XY
    path = written(
        tmp_path / "s.h5",
        {"features/uni_v1": ROWS, "coords": places},
        patch_size=256,
        patch_size_level0=512,
    )
    bag = read_features(path)
    assert np.array_equal(bag.features, ROWS)
    assert np.array_equal(bag.xy, XY)
    assert (bag.span_px, bag.tile_px) == (512.0, 256)
    assert np.array_equal(read_coords(path)[0], XY)


def test_a_group_of_several_encoders_is_not_chosen_from(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    written(path, {"features/uni_v1": ROWS, "features/resnet50": ROWS, "coords": XY})
    with pytest.raises(FeatureFileError, match=r"2 encoders \(resnet50, uni_v1\)"):
        read_features(path)


def test_no_group_leads_out_of_the_file(tmp_path: Path) -> None:
    other = written(tmp_path / "other.h5", {"group/uni_v1": ROWS})
    path = written(tmp_path / "s.h5", {"coords": XY})
    with h5py.File(path, "r+") as file:
        file["features"] = h5py.ExternalLink(str(other), "group")
    with pytest.raises(FeatureFileError, match="is a link to another place"):
        read_features(path)


def test_the_only_tile_of_a_slide_and_the_embedding_of_one(tmp_path: Path) -> None:
    squeezed = written(tmp_path / "one.h5", {"features": ROWS[0], "coords": XY[:1]})
    assert np.array_equal(read_features(squeezed).features, ROWS[:1])
    embedding = written(tmp_path / "slide.h5", {"features": ROWS[0], "coords": XY})
    with pytest.raises(FeatureFileError, match="embedding of a whole slide"):
        read_features(embedding)


def test_features_without_places_are_a_bag_without_them(tmp_path: Path) -> None:
    path = written(tmp_path / "s.h5", {"features": ROWS})
    bag = read_bag(path)
    assert isinstance(bag, UnplacedBag)
    assert np.array_equal(bag.features, ROWS)
    with pytest.raises(FeatureFileError, match=r"data\.coords"):
        _ = bag.coords
    (tmp_path / "patches").mkdir()
    written(tmp_path / "patches" / "s.h5", {"coords": XY})
    placed = read_bag(path, tmp_path / "patches")
    assert np.array_equal(placed.xy, XY)


@pytest.mark.parametrize("name", ["features", "feats"])
def test_a_saved_dict_of_features_and_places(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.pt"
    torch.save({name: torch.from_numpy(ROWS).half(), "coords": torch.from_numpy(XY)}, path)
    bag = read_bag(path)
    assert np.array_equal(bag.features, ROWS.astype("f2").astype("f4"))
    assert np.array_equal(bag.xy, XY)
    assert bag.span_px == 256


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ROWS, r"numpy array.*torch\.from_numpy"),
        ({"weight": torch.ones(3, 4)}, "holds a dict, not a tensor"),
        ({"features": torch.ones(3, 4), "coords": torch.ones(2, 2)}, "do not belong together"),
        ({"features": torch.ones(3, 4), "coords": [1, 2]}, "coords are a list"),
        (torch.ones(4), r"shape \[4\], not"),
    ],
)
def test_what_a_saved_file_should_not_hold(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "s.pt"
    torch.save(content, path)
    with pytest.raises(FeatureFileError, match=words) as caught:
        read_bag(path)
    assert "\n" not in str(caught.value)
