"""A bundle opens if and only if every byte is what its manifest says and nothing leaves it."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathgene_rt.bundle.adequacy import Adequacy
from pathgene_rt.bundle.bundle import ENCODER_FILE, Bundle
from pathgene_rt.errors import BundleError
from pathgene_rt.files import is_safe_name
from tests.support import tiny_models as tiny


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return tiny.tiny_bundle_files()


@pytest.mark.parametrize("folder", [False, True])
def test_opens_zip_and_folder_alike(tmp_path: Path, files: dict[str, bytes], folder: bool) -> None:
    path = tiny.write_files(tmp_path / "lung.pgrt", files, folder=folder)
    with Bundle.open(path) as bundle:
        assert [head.name for head in bundle.heads] == ["egfr", "tp53"]
        assert bundle.feature_dim == tiny.DIM
        assert bundle.preprocess.tile_px == tiny.TILE_PX
        assert bundle.read(ENCODER_FILE) == files[ENCODER_FILE]
        golden = bundle.golden("encoder")
        assert golden["tiles"].shape == (48, tiny.TILE_PX, tiny.TILE_PX, 3)
        assert bundle.golden("egfr")["logits"].dtype == np.float32


def test_any_changed_byte_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    for number, (name, data) in enumerate(files.items()):
        damaged = bytearray(data)
        damaged[len(damaged) // 2] ^= 1
        path = tiny.write_files(tmp_path / f"{number}.pgrt", {**files, name: bytes(damaged)})
        with pytest.raises(BundleError):
            Bundle.open(path)


def refuse(path: Path, files: dict[str, bytes], words: str, *, folder: bool = False) -> None:
    tiny.write_files(path, files, folder=folder)
    with pytest.raises(BundleError, match=words) as caught:
        Bundle.open(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", [False, True])
def test_missing_file(tmp_path: Path, files: dict[str, bytes], folder: bool) -> None:
    del (less := dict(files))["heads/tp53.onnx"]
    refuse(tmp_path / "b.pgrt", less, r"lacks heads/tp53\.onnx", folder=folder)


def test_newer_schema_is_named_before_unknown_fields(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    newer = tiny.edit_manifest(files, {"schema_version": 2, "new_field": 1})
    refuse(tmp_path / "b.pgrt", newer, "schema version 2, this pathgene-rt reads 1")


@pytest.mark.parametrize(
    "name",
    [
        "../evil.onnx",
        "/etc/passwd.md",
        "a/../../b.md",
        "c:/x.md",
        "a\\b.md",
        "x.pkl",
        "w.pt",
        "a//b.md",
    ],
)
def test_names_that_leave_the_bundle_or_may_hold_code(
    tmp_path: Path, files: dict[str, bytes], name: str
) -> None:
    manifest = json.loads(files["bundle.json"])
    manifest["files"][name] = {"sha256": "0" * 64, "size": 1}
    changed = {**files, "bundle.json": json.dumps(manifest).encode()}
    refuse(tmp_path / "b.pgrt", changed, "is not allowed in a bundle")


@pytest.mark.skipif(os.name == "nt", reason="making links needs a privilege on Windows")
def test_link_that_leaves_the_folder(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = tiny.write_files(tmp_path / "b", files, folder=True)
    outside = tmp_path / "outside.onnx"
    outside.write_bytes(files[ENCODER_FILE])
    (path / ENCODER_FILE).unlink()
    (path / ENCODER_FILE).symlink_to(outside)
    with pytest.raises(BundleError, match=r"lacks encoder\.onnx"):
        Bundle.open(path)


@pytest.mark.skipif(os.name == "nt", reason="making links needs a privilege on Windows")
def test_folder_link_that_leaves_the_folder(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = tiny.write_files(tmp_path / "b", files, folder=True)
    (path / "heads").rename(tmp_path / "heads")
    (path / "heads").symlink_to(tmp_path / "heads")
    with pytest.raises(BundleError):
        Bundle.open(path)


def test_compressed_zip_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = tmp_path / "b.pgrt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(BundleError, match="compressed"):
        Bundle.open(path)


def test_unlisted_member_of_a_zip_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    refuse(tmp_path / "b.pgrt", {**files, "notes.md": b"hello"}, "does not list")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + bytes(18)])
def test_not_a_bundle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.pgrt"
    path.write_bytes(content)
    with pytest.raises(BundleError):
        Bundle.open(path)


def test_truncated_zip(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = tiny.write_files(tmp_path / "b.pgrt", files)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(BundleError, match="no bundle"):
        Bundle.open(path)


def test_no_such_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.open(tmp_path / "nothing.pgrt")


def test_file_changed_after_opening(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = tiny.write_files(tmp_path / "b", files, folder=True)
    with Bundle.open(path) as bundle:
        (path / ENCODER_FILE).write_bytes(b"x" * len(files[ENCODER_FILE]))
        with pytest.raises(BundleError, match="changed since"):
            bundle.read(ENCODER_FILE)


def test_head_of_another_width(tmp_path: Path, files: dict[str, bytes]) -> None:
    model = tiny.tiny_head_onnx(dim=7)
    spec = tiny.head_spec("egfr", model, dim=7)
    changed = {**files, spec.file: model}
    encoder = tiny.encoder_spec(files[ENCODER_FILE])
    changed["bundle.json"] = tiny.manifest_json(encoder, [spec], changed)
    refuse(tmp_path / "b.pgrt", changed, "takes 7 features, the encoder gives 12")


@given(st.text(max_size=30))
def test_safe_names_stay_inside(name: str) -> None:
    if is_safe_name(name):
        root = Path("/root-of-bundle")
        assert os.path.normpath(root / name).startswith(str(root) + os.sep)


def test_what_is_not_said_is_left_out_for_runtimes_that_do_not_know_it(tmp_path: Path) -> None:
    files = tiny.tiny_bundle_files()
    document = json.loads(files["bundle.json"])
    assert not {"adequacy", "domain", "panel"} & document.keys()
    task = document["heads"][0]["task"]
    assert not {"zones", "hierarchy"} & task.keys() and task["calibration"] == {"temperature": 1.0}
    path = tiny.write_files(tmp_path / "t.pgrt", files)
    with Bundle.open(path) as bundle:
        said = replace(bundle.manifest, adequacy=Adequacy(min_tiles=5))
    assert json.loads(said.to_json())["adequacy"]["min_tiles"] == 5


@pytest.mark.parametrize(
    "change",
    [
        {"domain": {"file": "domain.npz", "policy": "guess"}},
        {"quality": {"policy": "repair"}},
        {"adequacy": {"max_blur": 1}},
    ],
)
def test_policies_that_are_not_known_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    files = tiny.edit_manifest(tiny.tiny_bundle_files(), change)
    with pytest.raises(BundleError, match=f"does not fit the schema at .*{next(iter(change))}"):
        Bundle.open(tiny.write_files(tmp_path / "t.pgrt", files))
