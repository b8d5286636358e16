"""What is fuzzed: for each kind of input, how a case is made and what reads it."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.errors import EngineError, PathGeneError
from tests.fuzz.kind import DOCUMENTED, FindingError, Kind, write
from tests.fuzz.mutate import WORDS, bytes_changed, document_changed, text_changed
from tests.fuzz.slide_kinds import Czi, Dicom, ISyntax, Kfb, Slides, Tiffs, Tmap
from tests.support import tiny_models as tiny


class Bundles(Kind):
    """Bundles whose manifest, graphs, goldens or zip are changed; hashes mostly made to fit."""

    name = "bundles"

    def prepare(self) -> None:
        self._files = tiny.tiny_bundle_files()

    def make(self, rng: random.Random) -> Path:
        files = dict(self._files)
        action = rng.random()
        if action < 0.4:
            name = rng.choice([name for name in files if name != "bundle.json"])
            files[name] = bytes_changed(rng, files[name])
        document = json.loads(files["bundle.json"])
        if action >= 0.4:
            document = document_changed(rng, document)
        if rng.random() < 0.8 and isinstance(document.get("files"), dict):
            _fit_hashes(document, files)
        with contextlib.suppress(ValueError, RecursionError):
            files["bundle.json"] = json.dumps(document).encode("utf-8", "surrogatepass")
        path = tiny.write_files(self.folder / "case.pgrt", files)
        if rng.random() < 0.2:
            path.write_bytes(bytes_changed(rng, path.read_bytes()))
        return path

    def read(self, path: Path, rng: random.Random) -> None:
        from pathgene_rt.bundle.bundle import Bundle

        with Bundle.open(path) as bundle:
            for name in ("encoder", *(head.name for head in bundle.heads)):
                with contextlib.suppress(PathGeneError):
                    bundle.golden(name)
            graphs = [bundle.graph(name) for name in bundle.manifest.files if name[-5:] == ".onnx"]
        if graphs:
            run_graph(rng.choice(graphs), rng)


def _fit_hashes(document: dict[str, Any], files: dict[str, bytes]) -> None:
    """Hashes and sizes of the files as they are, wherever the document holds the old ones."""
    import hashlib

    text = json.dumps(document)
    for name, data in files.items():
        record = document["files"].get(name)
        stated = record.get("sha256") if isinstance(record, dict) else None
        if isinstance(stated, str) and len(stated) == 64:
            text = text.replace(stated, hashlib.sha256(data).hexdigest())
    changed = json.loads(text)
    for name, data in files.items():
        if isinstance(changed["files"].get(name), dict):
            changed["files"][name]["size"] = len(data)
    document.clear()
    document.update(changed)


def run_graph(model: bytes, rng: random.Random) -> None:
    """Compile and run what the guard let pass, as an engine does."""
    import onnx

    from pathgene_rt.engines.onnxruntime.runner import native_errors, open_session

    session = open_session(model, 1, keep_memory=False)
    inputs = {}
    for value in onnx.load_from_string(model).graph.input:
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [axis.dim_value or 3 for axis in value.type.tensor_type.shape.dim]
        if np.prod(shape, dtype=float) > 1 << 22:
            raise EngineError("inputs that no engine gives")
        inputs[value.name] = np.ones(shape, kind)
    with native_errors("run it"):
        session.run(None, inputs)


class Graphs(Kind):
    """ONNX graphs, field by field: what the guard refuses, and engines that take the rest."""

    name = "graphs"

    def prepare(self) -> None:
        self._bases = [
            tiny.tiny_encoder_onnx(),
            tiny.tiny_head_onnx(coords=True),
            tiny.tiny_head_onnx(branches=3),
        ]

    def make(self, rng: random.Random) -> Path:
        base = rng.choice(self._bases)
        if rng.random() < 0.3:
            return write(self.folder / "case.onnx", bytes_changed(rng, base))
        return write(self.folder / "case.onnx", _graph_changed(rng, base))

    def read(self, path: Path, rng: random.Random) -> None:
        from pathgene_rt.bundle.onnx_guard import rewritten

        model = rewritten(path.read_bytes(), path.name)
        if rewritten(model, path.name) != model:
            raise FindingError("what was written anew is not understood the same way")
        run_graph(model, rng)


_OPERATORS = ("Relu", "Loop", "If", "Add", "Reshape", "Expand", "Gather", "Tile", "Cast", "Concat")


def _graph_changed(rng: random.Random, base: bytes) -> bytes:
    import onnx

    model = onnx.load_from_string(base)
    graph = model.graph
    for _ in range(rng.choice((1, 1, 2, 4))):
        if rng.random() < 0.5:
            _node_changed(rng, graph, rng.choice(graph.node))
        elif rng.random() < 0.7:
            _tensor_changed(rng, rng.choice(graph.initializer))
        elif rng.random() < 0.5:
            graph.node.append(rng.choice(graph.node))
        else:
            value = rng.choice([*graph.input, *graph.output])
            for axis in value.type.tensor_type.shape.dim:
                axis.dim_value = rng.choice((0, 1, 64, 1 << 20, -1))
    return bytes(model.SerializeToString())


def _node_changed(rng: random.Random, graph: Any, node: Any) -> None:
    names = [name for other in graph.node for name in (*other.input, *other.output)]
    action = rng.randrange(4)
    if action == 0:
        node.op_type = rng.choice(_OPERATORS)
    elif action == 1 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    elif action == 2 and node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice(names)
    elif node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.i = rng.choice((-1, 0, 1, 2, 1 << 31, (1 << 63) - 1, -(1 << 63)))
        if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice((0, -1, 1 << 40))


def _tensor_changed(rng: random.Random, tensor: Any) -> None:
    action = rng.randrange(4)
    if action == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((0, 1, -1, 3, 1 << 40))
    elif action == 1:
        tensor.data_type = rng.randrange(20)
    elif action == 2:
        tensor.raw_data = bytes_changed(rng, tensor.raw_data or b"\0" * 8)
    else:
        tensor.external_data.add(key="location", value="/etc/passwd")
        tensor.data_location = rng.choice((0, 1))


class Hdf5(Kind):
    """Features and coordinates files of ours, of CLAM and of TRIDENT."""

    name = "hdf5"

    def prepare(self) -> None:
        import h5py

        from pathgene_rt.features.bag import FeatureBag
        from pathgene_rt.features.hdf5 import write_features
        from pathgene_rt.features.tile_flags import TileFlags

        rows = np.random.default_rng(0).standard_normal((12, 8), dtype=np.float32)
        xy = np.stack([np.arange(12) * 64, np.zeros(12)], axis=1).astype(np.int32)
        flags = TileFlags({"pen": xy[:, 0] > 300}, np.ones(12, dtype=np.bool_))
        bag = FeatureBag("x", rows, xy, 64, 0.5, 64.0, "0" * 64, flags=flags)
        write_features(self.folder / "0.h5", bag)
        with h5py.File(self.folder / "1.h5", "w") as file:
            file.create_dataset("features", data=rows, chunks=(1, 8), maxshape=(None, 8))
            file.create_dataset("coords", data=xy, chunks=(1, 2), maxshape=(None, 2))
            file["coords"].attrs.update(patch_size=64, patch_level=0, name="x")
        with h5py.File(self.folder / "2.h5", "w") as file:
            file.create_dataset("features", data=rows[None], compression="gzip", shuffle=True)
            file.create_dataset("coords", data=xy.astype(np.int64))
            file["coords"].attrs.update(
                patch_size=64, patch_size_level0=128, target_magnification=20
            )
        self._bases = [(self.folder / f"{number}.h5").read_bytes() for number in range(3)]

    def make(self, rng: random.Random) -> Path:
        changed = bytes_changed(rng, rng.choice(self._bases), near=6000)
        return write(self.folder / "case.h5", changed)

    def read(self, path: Path, rng: random.Random) -> None:
        from pathgene_rt.features.hdf5 import read_coords, read_features

        (read_features if rng.random() < 0.7 else read_coords)(path)


class Tables(Kind):
    """Tables of labels and cases, and configurations."""

    name = "tables"

    _CSV = "slide_id,case_id,EGFR,TP53\ns1,c1,mutated,wt\ns2,c1,wt,NA\ns3,c2,1,0\ns4,c3,1.0,\n"
    _CASES = "slide,case\ns1.svs,c1\ns2.svs,c1\ns3,c2\ns4.svs,c3\n"
    _TOML = (
        '[data]\nfeatures = "f"\nlabels = "l.csv"\ntask = "EGFR"\n[head]\narchitecture = "abmil"\n'
        "[training]\nepochs = 3\nseed = 1\n"
    )

    def make(self, rng: random.Random) -> Path:
        self._what = rng.randrange(3)
        text = (self._CSV, self._CASES, self._TOML)[self._what]
        if self._what == 2:
            text = text.replace(
                *rng.choice((("3", rng.choice(WORDS)), ("=", "= [" * 9), ("\n", "")))
            )
            if rng.random() < 0.05:
                text = "a = " + "[" * 100_000
        changed = text_changed(rng, text).encode("utf-8", "surrogatepass")
        if rng.random() < 0.2:
            changed = bytes_changed(rng, changed)
        if rng.random() < 0.1:
            changed = changed.decode("utf-8", "replace").encode("utf-16")
        return write(self.folder / "case.csv", changed)

    def read(self, path: Path, rng: random.Random) -> None:
        from pathgene_rt.cases.table import read_cases
        from pathgene_rt.evaluation.labels import read_labels
        from pathgene_rt.training.config import TrainConfig
        from pathgene_rt.training.toml_config import read_toml

        if self._what == 0:
            read_labels(path, r"c\d", rng.choice((None, "split")))
        elif self._what == 1:
            read_cases(path, [Path(f"s{number}.svs") for number in range(1, 5)])
        else:
            read_toml(path, TrainConfig)


class Commands(Kind):
    """The command line in this process: exit codes, and at most four lines of an error."""

    name = "commands"

    def prepare(self) -> None:
        self._bundles, self._slides = Bundles(self.folder), Slides(self.folder)
        self._good = tiny.tiny_bundle(self.folder / "good.pgrt")

    def make(self, rng: random.Random) -> Path:
        self._predicts = rng.random() < 0.3
        return (self._slides if self._predicts else self._bundles).make(rng)

    def read(self, path: Path, rng: random.Random) -> None:
        from pathgene_rt.cli import entry

        arguments = ["inspect", str(path), *rng.choice(((), ("--json",)))]
        if self._predicts:
            out = str(self.folder / "out")
            arguments = ["predict", str(path), "--bundle", str(self._good), "--out", out]
            arguments += ["--overwrite", "--no-heatmaps", "--quiet", "--mpp", "0.5"]
        out_text, err_text = io.StringIO(), io.StringIO()
        before, sys.argv = sys.argv, ["pathgene-rt", *arguments]
        try:
            with contextlib.redirect_stdout(out_text), contextlib.redirect_stderr(err_text):
                code = entry.run()
        finally:
            sys.argv = before
        lines = err_text.getvalue()
        if code not in DOCUMENTED:
            raise FindingError(f"exit code {code}: {lines}")
        if code and lines.count("\n") > 4:
            raise FindingError(f"{lines.count(chr(10))} lines of error: {lines}")
        if "\x1b" in lines + out_text.getvalue():
            raise FindingError("an escape reached the terminal")


KINDS: dict[str, type[Kind]] = {
    kind.name: kind
    for kind in (
        *(Slides, Tiffs, Dicom, Czi, Kfb, Tmap, ISyntax),
        *(Bundles, Graphs, Hdf5, Tables, Commands),
    )
}
