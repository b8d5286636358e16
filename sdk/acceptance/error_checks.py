"""Does it fail as it says it does? Every error path provoked, and what works afterwards."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from pathgene_rt.acceptance.workbench import (
    Check,
    CheckFailedError,
    Finding,
    NotRunError,
    Workbench,
)
from pathgene_rt.engines.engine import LIMITS, Engine
from pathgene_rt.engines.qualify.replay import encode_tiles, probability_change
from pathgene_rt.errors import EngineError


def wrong_inputs(bench: Workbench) -> Finding:
    """Tiles of another size, type or name are refused, and the engine goes on."""
    with bench.factory().encoder() as encoder:
        name = encoder.spec.inputs[0].name
        tiles = bench.tiles[:2]
        refused = [
            _refused(what, partial(encoder.submit, wrong))
            for what, wrong in (
                ("tiles of another size", {name: np.ascontiguousarray(tiles[:, :-1])}),
                ("tiles of another type", {name: tiles.astype(np.float32)}),
                ("tiles of a view", {name: bench.tiles[:4:2]}),
                ("an input of another name", {f"not {name}": tiles}),
                ("no tiles", {name: tiles[:0]}),
            )
        ]
        _still_right(bench, encoder)
    return Finding(f"{len(refused)} refused, e.g. “{refused[0]}”")


def too_many_in_flight(bench: Workbench) -> Finding:
    """One submission more than may be in flight, and one result more, are refused."""
    with bench.factory().encoder() as encoder:
        name = encoder.spec.inputs[0].name
        for _ in range(encoder.in_flight):
            encoder.submit({name: bench.tiles[:2]})
        refused = _refused(
            f"submission {encoder.in_flight + 1}", lambda: encoder.submit({name: bench.tiles[:2]})
        )
        for _ in range(encoder.in_flight):
            encoder.result()
        _refused("a result that nobody asked for", encoder.result)
        _still_right(bench, encoder)
    return Finding(f"“{refused}”", {"in flight": encoder.in_flight})


def closed(bench: Workbench) -> Finding:
    """A closed engine refuses work; closing with work outstanding, and twice, is no error."""
    encoder = bench.factory().encoder()
    name = encoder.spec.inputs[0].name
    encoder.submit({name: bench.tiles[:2]})
    encoder.close()
    encoder.close()
    refused = _refused("a submission", lambda: encoder.submit({name: bench.tiles[:2]}))
    _refused("a result", encoder.result)
    return Finding(f"“{refused}”")


def large_batch(bench: Workbench) -> Finding:
    """A batch larger than the engine was made for is computed, or refused in one line."""
    factory = bench.factory()
    batch = 2 * max(factory.options.batch, *factory.selection.availability.batches) + 1
    with factory.encoder() as encoder:
        tiles = np.resize(bench.tiles, (batch, *bench.tiles.shape[1:]))
        try:
            features = encode_tiles(encoder, tiles, batch)
        except EngineError as error:
            words = f"{batch} tiles are refused: “{_one_line(error)}”"
        else:
            reference = np.resize(bench.golden, (batch, bench.golden.shape[1]))
            bench.require_features(features, reference, f"a batch of {batch}")
            words = f"{batch} tiles are computed rightly"
        _still_right(bench, encoder)
    return Finding(words)


def damaged_cache(bench: Workbench) -> Finding:
    """Engines in the cache whose bytes were changed are built again, never loaded."""
    folder = _cache_of_one_graph(bench, "damaged")
    for what, change in (("cut short", _cut_short), ("changed in one bit", _flip_a_bit)):
        for file in _kept(folder):
            file.write_bytes(change(file.read_bytes()))
        before = {file: file.read_bytes() for file in _kept(folder)}
        _graph_is_right(bench, folder)
        for file, data in before.items():
            if file.is_file() and file.read_bytes() == data:
                raise CheckFailedError(f"{file.name} was used, or left as it was, though {what}")
    return Finding("engines that were cut short, then changed in one bit, were built again")


def foreign_cache(bench: Workbench) -> Finding:
    """An engine that lies in the cache under this machine's key but is of another is not loaded."""
    folder = _cache_of_one_graph(bench, "foreign")
    for file in _kept(folder):
        record = file.with_suffix(".json")
        document = json.loads(record.read_text(encoding="utf-8"))
        document["key"]["version"] = OTHER_VERSION
        record.write_text(json.dumps(document), encoding="utf-8")
    _graph_is_right(bench, folder)
    for file in _kept(folder):
        if OTHER_VERSION in file.with_suffix(".json").read_text(encoding="utf-8"):
            raise CheckFailedError(f"{file.name} was used though it says it is of another version")
    return Finding("an engine that says it is of another version was built again")


def unwritable_cache(bench: Workbench) -> Finding:
    """With a cache folder that cannot be made everything works, with a warning."""
    blocked = bench.job.folder / "not-a-folder"
    blocked.write_bytes(b"")
    return _warned(bench, _graph_is_right(bench, blocked / "cache"))


def full_cache(bench: Workbench) -> Finding:
    """With a disk that takes no more everything works, with a warning, and no half file stays."""
    folder = bench.job.folder / f"full-{bench.job.target}".replace(" ", "-")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # Where our files are flushed, so that what drivers and libraries write is left alone.
    with patch("os.fsync", side_effect=full):
        notes = _graph_is_right(bench, folder)
    halves = [file.name for file in folder.rglob("*.part")]
    if halves:
        raise CheckFailedError(f"half files stayed: {', '.join(halves)}")
    return _warned(bench, notes)


OTHER_VERSION = "0.0 of another machine"


def _warned(bench: Workbench, notes: tuple[str, ...]) -> Finding:
    warnings = [note for note in notes if "cache" in note]
    if warnings:
        return Finding(f"“{warnings[0]}”")
    if bench.keeps_engines:
        raise CheckFailedError("it works, but the report would not say that nothing is kept")
    return Finding("it works; no engine of ours is kept in the cache")


def _cache_of_one_graph(bench: Workbench, name: str) -> Path:
    """A new cache folder in which one graph was built. Raises NotRunError if none is kept."""
    if not bench.keeps_engines:
        raise NotRunError("it compiles each time, or its library keeps files that it checks itself")
    folder = bench.job.folder / f"{name}-{bench.job.target}".replace(" ", "-")
    _graph_is_right(bench, folder)
    if not _kept(folder):  # a head that is not built for this card runs on another engine
        raise NotRunError("no engine is kept of the head that would be damaged")
    return folder


def _graph_is_right(bench: Workbench, cache_dir: Path) -> tuple[str, ...]:
    """The factory's notes, once a graph from ``cache_dir`` gave what its goldens say.

    A head, as one builds in seconds; the encoder of a bundle without heads.
    """
    factory = bench.factory(cache_dir=cache_dir)
    if not bench.bundle.heads:
        with factory.encoder() as encoder:
            _still_right(bench, encoder)
        return factory.notes
    head = bench.bundle.heads[0]
    golden = bench.bundle.golden(head.name)
    inputs = {tensor.name: golden[tensor.name] for tensor in head.model.inputs}
    with factory.head(head.name) as engine:
        moved = probability_change(head, engine, inputs, golden["logits"])
        limit = LIMITS[engine.info.precision].probabilities
    if not moved <= limit:
        raise CheckFailedError(f"probabilities of {head.name} move by {moved:.4f}, over {limit:g}")
    return factory.notes


def _still_right(bench: Workbench, encoder: Engine) -> None:
    """Raise CheckFailedError unless ``encoder`` computes the goldens."""
    # All of them: limits are on the median tile.
    features = encode_tiles(encoder, bench.tiles, 4)
    bench.require_features(features, bench.golden, "afterwards")


def _refused(what: str, action: Callable[[], object]) -> str:
    """The words of the EngineError that ``action`` must raise."""
    try:
        action()
    except EngineError as error:
        return _one_line(error)
    raise CheckFailedError(f"{what}: not refused")


def _one_line(error: EngineError) -> str:
    words = str(error)
    if not words or "\n" in words:
        raise CheckFailedError(f"an error that is not one line: {words!r}")
    return words


def _kept(folder: Path) -> list[Path]:
    """Files of the engines that a cache holds."""
    return sorted(folder.glob("engines/*.bin"))


def _cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip_a_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


ERROR_CHECKS = (
    Check("wrong inputs", "what does not fit is refused", wrong_inputs),
    Check("too many in flight", "the order of calls is enforced", too_many_in_flight),
    Check("closed", "a closed engine refuses work", closed),
    Check("large batch", "a batch over what was built for ends well", large_batch),
    Check("damaged cache", "damaged engines are built again", damaged_cache, 3600.0),
    Check("foreign cache", "engines of another machine are built again", foreign_cache, 3600.0),
    Check("unwritable cache", "no cache folder, but a warning", unwritable_cache, 3600.0),
    Check("full cache", "a full disk costs the cache only", full_cache, 3600.0),
)
