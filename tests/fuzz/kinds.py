"""What is fuzzed: for each kind of input, how a case is made and what reads it.

A case ends well if the product takes the input, or refuses it with an error of its own that has a
documented exit code and one line of words. Anything else is a finding.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pathgene_rt.errors import EngineError, PathGeneError
from tests.fuzz.mutate import WORDS, bytes_changed, document_changed, text_changed
from tests.fuzz.tiff import stream_changed, tiff_changed
from tests.support import tiny_models as tiny
from tests.support.czi_slides import write_czi
from tests.support.slide_corpus import pyramid, samples

DOCUMENTED = frozenset({0, 2, 3, 4, 5, 6, 7, 130})
SHARED = Path(__file__).resolve().parents[3] / "shared"


class FindingError(Exception):
    """What a case should not have done."""


class Kind(ABC):
    """One kind of input. ``prepare`` is called once; ``folder`` is the worker's own."""

    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prepare()

    def prepare(self) -> None:
        """Write what all cases start from."""
        self.folder.mkdir(exist_ok=True)

    @abstractmethod
    def make(self, rng: random.Random) -> Path:
        """Write a case."""

    @abstractmethod
    def read(self, path: Path, rng: random.Random) -> None:
        """Let the product read it."""

    def check(self, path: Path, rng: random.Random) -> str:
        """The outcome in a word: "taken" or the name of the error. Raises FindingError."""
        try:
            self.read(path, rng)
        except PathGeneError as error:
            text = str(error)
            if error.exit_code not in DOCUMENTED:
                raise FindingError(f"undocumented exit code {error.exit_code}: {text}") from error
            if not text or "\n" in text:
                raise FindingError(
                    f"{type(error).__name__} is not of one line: {text!r}"
                ) from error
            return type(error).__name__
        except MemoryError:
            raise
        except FindingError:
            raise
        except Exception as error:
            raise FindingError(f"foreign exception {type(error).__name__}: {error}") from error
        return "taken"


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


class Slides(Kind):
    """TIFF slides: of Aperio's kind as JPEG and JPEG 2000, generic ones, classic and BigTIFF."""

    name = "slides"

    def prepare(self) -> None:
        import tifffile

        pixels = np.random.default_rng(0).integers(0, 255, (256, 320, 3), np.uint8)
        pixels[:, 160:] = 240
        aperio = "Aperio Image Library v1\n320x256 (256x256) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"
        self._bases = []
        for number, (options, description) in enumerate(
            (
                ({"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)}, aperio),
                ({"compression": "jpeg", "photometric": "rgb"}, aperio),
                ({"compression": "jpeg", "photometric": "ycbcr", "bigtiff": True}, "generic"),
                ({"compression": "zlib", "photometric": "rgb", "byteorder": ">"}, "generic"),
                ({"compression": 33005, "photometric": "rgb"}, aperio),
            )
        ):
            path = self.folder / f"base{number}.tif"
            kind = {k: options.pop(k) for k in ("bigtiff", "byteorder") if k in options}
            compression = options.pop("compression")
            data: Any = options
            if compression == 33005:
                import imagecodecs

                def tiles(image: Any) -> Any:
                    for top in range(0, image.shape[0], 64):
                        for left in range(0, image.shape[1], 64):
                            tile = np.ascontiguousarray(image[top : top + 64, left : left + 64])
                            yield imagecodecs.jpeg2k_encode(tile, level=30, codecformat="j2k")

            with tifffile.TiffWriter(path, **kind) as tiff:
                for step in (1, 4):
                    level = np.ascontiguousarray(pixels[::step, ::step])
                    source: Any = level
                    if compression == 33005:
                        source, data = tiles(level), {**options, "shape": level.shape}
                        data["dtype"] = np.uint8
                    tiff.write(
                        source,
                        tile=(64, 64),
                        compression=compression,
                        description=description,
                        subfiletype=int(step > 1),
                        metadata=None,
                        **data,
                    )
            self._bases.append(path.read_bytes())

    def make(self, rng: random.Random) -> Path:
        return _write(self.folder / "case.svs", tiff_changed(rng, rng.choice(self._bases)))

    def read(self, path: Path, rng: random.Random) -> None:
        read_here(path, rng)


def read_slide(path: Path) -> None:
    """What a prediction does with a slide, but for the encoder."""
    from pathgene_rt.slides import open_slide

    with open_slide(path, 0.5) as slide:
        _read_all(slide)


_READ_APART = 0.02
"""Of what a prediction reads in a process of its own, which takes as long as a hundred cases."""


def read_here(path: Path, rng: random.Random) -> None:
    """Like :func:`read_slide`, but for most of what is read apart: that cannot end this process."""
    from pathgene_rt.errors import SlideOpenError
    from pathgene_rt.slides.opening import open_here

    slide, _ = open_here(path, 0.5)
    if slide is None:
        raise SlideOpenError(f"{path}: no reader takes it")
    with slide:
        is_odd = getattr(slide, "is_odd", False)
        if not is_odd:
            _read_all(slide)
    if is_odd and rng.random() < _READ_APART:
        read_slide(path)


def _read_all(slide: Any) -> None:
    from pathgene_rt.errors import TileDecodeError

    for level, downsample in enumerate(slide.info.downsamples):
        for x, y in ((0, 0), (100, 60)):
            corner = (round(x * downsample), round(y * downsample))
            with contextlib.suppress(TileDecodeError):
                slide.read(corner, level, (128, 96))
                slide.read(corner, level, (128, 96), shrink=2, approximate=True)
        if (source := slide.encoded_source(level)) is not None:
            with contextlib.suppress(TileDecodeError):
                source.region((0, 0), 64)
    slide.overview(8.0)


class Tiffs(Kind):
    """OME-TIFF, and TIFFs that OpenSlide does not know, in every compression."""

    name = "tiffs"
    _FAMILIES: ClassVar[tuple[str, ...]] = ("OME-TIFF", "TIFF")

    def prepare(self) -> None:
        self._bases = list(_corpus(self.folder, self._FAMILIES))

    def make(self, rng: random.Random) -> Path:
        data = rng.choice(self._bases)
        at, end = data.find(b"<OME"), data.find(b"</OME>")
        if 0 <= at < end and rng.random() < 0.2:
            data = data[:at] + bytes_changed(rng, data[at:end]) + data[end:]
        return _write(self.folder / "case.tif", tiff_changed(rng, data))

    def read(self, path: Path, rng: random.Random) -> None:
        read_here(path, rng)


class Dicom(Kind):
    """DICOM slides, element by element as far as lengths go, and their streams."""

    name = "dicom"

    def prepare(self) -> None:
        self._bases = list(_corpus(self.folder, ("DICOM",)))
        source = SHARED / "slides" / "boxes_0.dcm"
        self._bases += [source.read_bytes()] if source.is_file() else []

    def make(self, rng: random.Random) -> Path:
        data = rng.choice(self._bases)
        if rng.random() < 0.3:
            data = stream_changed(rng, data)
        return _write(self.folder / "case.dcm", bytes_changed(rng, data, near=2048))

    def read(self, path: Path, rng: random.Random) -> None:
        read_here(path, rng)


class Czi(Kind):
    """CZI slides that Zeiss's library reads here: with focal planes, in zstd, uncompressed."""

    name = "czi"

    def prepare(self) -> None:
        super().prepare()
        pixels = pyramid()[0][:200, :300]
        self._bases = [
            write_czi(self.folder / "base.czi", planes, compression).read_bytes()
            for planes in ([pixels], [pixels] * 3)
            for compression in ("uncompressed:", "zstd0:", "zstd1:ExplicitLevel=2")
        ]

    def make(self, rng: random.Random) -> Path:
        data = rng.choice(self._bases)
        return _write(self.folder / "case.czi", bytes_changed(rng, data, near=4096))

    def read(self, path: Path, rng: random.Random) -> None:
        read_slide(path)


def _corpus(folder: Path, families: tuple[str, ...]) -> Iterator[bytes]:
    """A third of the slides of ``families``, each in one file."""
    levels = [np.ascontiguousarray(one[:200, :240]) for one in pyramid()]
    chosen = [one for one in samples() if one.name.split()[0] in families]
    for number, sample in enumerate(chosen[::3]):
        place = folder / f"base{number}"
        place.mkdir(exist_ok=True)
        yield sample.write(place, levels).read_bytes()
        shutil.rmtree(place)


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
            return _write(self.folder / "case.onnx", bytes_changed(rng, base))
        return _write(self.folder / "case.onnx", _graph_changed(rng, base))

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
        return _write(self.folder / "case.h5", changed)

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
        return _write(self.folder / "case.csv", changed)

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
    kind.name: kind for kind in (Slides, Tiffs, Dicom, Czi, Bundles, Graphs, Hdf5, Tables, Commands)
}
