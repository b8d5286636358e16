"""CTransPath against the published implementation's numbers, and what it refuses to load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pathgene_rt.errors import CheckpointError, UsageError
from pathgene_rt.export import upstream
from pathgene_rt.training.checkpoint import weights_sha256
from pathgene_rt.training.encoders import create_encoder, load_encoder
from pathgene_rt.training.encoders.ctranspath import CTransPath
from tests.support.parity import drawn_inputs, drawn_weights, parity_document


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return dict(CTransPath.seeded(0).state_dict())


def test_equals_the_published_implementation() -> None:
    (model,) = parity_document("ctranspath")["models"]
    assert CTransPath().state_dict().keys() == model["state_dict"].keys()
    encoder = upstream.load("ctranspath", drawn_weights(model), **model["config"])
    assert isinstance(encoder, CTransPath) and not encoder.training
    for case in model["cases"]:
        pixels = drawn_inputs(case)
        with torch.inference_mode():
            features = encoder(pixels).numpy()
        expected = np.array(case["outputs"]["features"])
        np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)


def test_tables_and_counters_may_be_missing_and_nothing_else(state: dict[str, Tensor]) -> None:
    whole = upstream.load("ctranspath", {"model": {**state, "head.bias": torch.zeros(9)}})
    assert weights_sha256(whole.state_dict(), {}) == weights_sha256(state, {})
    fewer = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    upstream.load("ctranspath", fewer)
    del fewer["norm.bias"]
    with pytest.raises(CheckpointError, match=r"missing norm\.bias"):
        upstream.load("ctranspath", fewer)


def test_features_of_a_tile_do_not_depend_on_its_batch() -> None:
    encoder = CTransPath.seeded(1)
    pixels = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together, alone = encoder(pixels), encoder(pixels[2:])
    torch.testing.assert_close(together[2:], alone, rtol=0, atol=1e-4)


def test_seeded_weights_are_reproducible_and_tell_tiles_apart() -> None:
    first, again = CTransPath.seeded(3).state_dict(), CTransPath.seeded(3).state_dict()
    assert weights_sha256(first, {}) == weights_sha256(again, {})
    assert weights_sha256(first, {}) != weights_sha256(CTransPath.seeded(4).state_dict(), {})
    pixels = torch.randn(2, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features = CTransPath.seeded(3)(pixels + noise)
    assert torch.isfinite(features).all()
    assert float(torch.cosine_similarity(features[0], features[1], dim=0)) < 0.99


@pytest.mark.parametrize("layout", ["plain", "model", "state_dict", "module.", "with head"])
def test_loads_every_published_layout(
    tmp_path: Path, state: dict[str, Tensor], layout: str
) -> None:
    saved: dict[str, object] = dict(state)
    if layout in ("model", "state_dict"):
        saved = {layout: state, "epoch": 100}
    elif layout == "module.":
        saved = {f"module.{name}": tensor for name, tensor in state.items()}
    elif layout == "with head":
        saved |= {"head.weight": torch.zeros(9, 768), "head.bias": torch.zeros(9)}
    torch.save(saved, tmp_path / "ctranspath.pth")
    loaded = load_encoder(tmp_path / "ctranspath.pth")
    assert not loaded.training
    assert weights_sha256(loaded.state_dict(), {}) == weights_sha256(state, {})


def test_names_missing_and_unexpected_keys(state: dict[str, Tensor]) -> None:
    wrong = {name: tensor for name, tensor in state.items() if not name.startswith("norm.")}
    wrong["fc.weight"] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError) as caught:
        CTransPath.from_checkpoint(wrong)
    message = str(caught.value)
    assert "2 missing (norm.weight, norm.bias)" in message
    assert "1 unexpected (fc.weight)" in message
    assert "\n" not in message


def test_names_a_wrong_shape(state: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"norm.weight has shape \[3\], expected \[768\]"):
        CTransPath.from_checkpoint({**state, "norm.weight": torch.ones(3)})


def test_refuses_weights_that_are_no_numbers(state: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"norm.bias holds NaN"):
        CTransPath.from_checkpoint({**state, "norm.bias": torch.full((768,), torch.nan)})


@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage", b"PK\x03\x04 no zip", b"\x00" * 512])
def test_refuses_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "encoder.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is no torch checkpoint"):
        CTransPath.from_checkpoint(path)


@pytest.mark.parametrize("content", [{}, [1, 2], {"model": {}}, {"a": 1}, torch.zeros(2)])
def test_refuses_a_checkpoint_without_a_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "encoder.pth")
    with pytest.raises(CheckpointError, match="state"):
        CTransPath.from_checkpoint(tmp_path / "encoder.pth")


def test_refuses_a_pickle_that_would_run_code(tmp_path: Path) -> None:
    torch.save({"model": Path("anything")}, tmp_path / "encoder.pth")
    with pytest.raises(CheckpointError, match="no torch checkpoint of plain weights"):
        CTransPath.from_checkpoint(tmp_path / "encoder.pth")


def test_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        load_encoder(tmp_path / "none.pth")


def test_unknown_encoder() -> None:
    with pytest.raises(UsageError, match="choose one of ctranspath"):
        create_encoder("resnet50")


def test_weights_hash_sees_names_values_types_and_extra_but_not_order() -> None:
    state = {"a": torch.arange(4.0), "b": torch.tensor(1)}
    reference = weights_sha256(state, {"mpp": 0.5})
    assert weights_sha256(dict(reversed(state.items())), {"mpp": 0.5}) == reference
    others = [
        weights_sha256(state, {"mpp": 0.25}),
        weights_sha256({**state, "a": torch.arange(4.0).reshape(2, 2)}, {"mpp": 0.5}),
        weights_sha256({**state, "a": torch.arange(4.0).double()}, {"mpp": 0.5}),
        weights_sha256({**state, "a": torch.tensor([0.0, 1.0, 2.0, 3.5])}, {"mpp": 0.5}),
        weights_sha256({"c": state["a"], "b": state["b"]}, {"mpp": 0.5}),
    ]
    assert reference not in others
    assert len(set(others)) == len(others)
