"""Does the engine compute what torch and the CPU do, in any batch, for any bag, for a slide?"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import numpy as np

from pathgene_rt.acceptance.workbench import (
    Check,
    CheckFailedError,
    Finding,
    NotRunError,
    Workbench,
    compare_reports,
    cpu_engine,
    report_arrays,
)
from pathgene_rt.engines.engine import LIMITS, Array
from pathgene_rt.engines.qualify.replay import encode_tiles, replay
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.heads.panel import POOLED_INCREMENTALLY_FROM, HeadPanel
from pathgene_rt.options import EngineOptions
from pathgene_rt.report.report import Report

BUILD_LIMIT_S = 3600.0
"""A TensorRT build tries kernels for minutes, on a Jetson for tens of them."""

BAGS = (1, 2, 37, 1024, POOLED_INCREMENTALLY_FROM + 616)
"""Tiles: the smallest, odd ones, and one that is folded block by block."""


def build(bench: Workbench) -> Finding:
    """Encoder and heads compile from nothing, and again from what was kept."""
    cold = _compile_all(bench)
    warm = _compile_all(bench)
    files = [file for file in bench.cache_dir.rglob("*") if file.is_file()]
    kept_mb = sum(file.stat().st_size for file in files) / 1e6
    heads = len(bench.bundle.heads)
    return Finding(
        f"the encoder and {heads} heads in {cold:.1f} s, again in {warm:.1f} s; "
        f"{len(files)} files of {kept_mb:.1f} MB kept",
        {"build s": cold, "load s": warm, "kept MB": kept_mb},
    )


def _compile_all(bench: Workbench) -> float:
    began = time.perf_counter()
    factory = bench.factory()
    with ExitStack() as stack:
        stack.enter_context(factory.encoder())
        stack.enter_context(HeadPanel(bench.bundle, factory))
        for head in bench.bundle.heads:
            if head.pooling is not None:
                stack.enter_context(factory.pooling(head.pooling))
        return time.perf_counter() - began


def goldens(bench: Workbench) -> Finding:
    """The bundle's golden tiles and bags give what torch gave, within the precision's limits."""
    factory = bench.factory()
    with factory.encoder() as encoder:
        found = replay(bench.bundle, factory, encoder, factory.options.batch)
    if found.failures:
        raise CheckFailedError("; ".join(found.failures))
    error = found.features
    figures = {"e median": error.median, "e max": error.maximum}
    moved = found.probability
    if moved is not None:
        figures["probability moved"] = moved
    heads = "" if moved is None else f", probabilities move by {moved:.5f}"
    return Finding(f"e median {error.median:.5f}, worst {error.maximum:.5f}{heads}", figures)


def batch_sizes(bench: Workbench) -> Finding:
    """A tile's features are the same in a batch of one, in full ones, and with a ragged last.

    On a card also in the largest batch that `build` tries there.
    """
    factory = bench.factory()
    usual = factory.options.batch
    sizes: dict[int, tuple[tuple[int, int], ...]] = {
        usual: ((1, 3), (usual, 2 * usual), (usual, 2 * usual + 1))
    }
    if bench.job.gpu and (largest := factory.selection.availability.batches[-1]) != usual:
        sizes[largest] = ((largest, largest + 1),)
    with factory.encoder() as encoder:
        own = encode_tiles(encoder, bench.tiles, usual)
    reached, worst = [], 0.0
    for made_for, calls in sizes.items():
        with bench.factory(batch=made_for).encoder() as encoder:
            for batch, count in calls:
                tiles = np.resize(bench.tiles, (count, *bench.tiles.shape[1:]))
                reference = np.resize(own, (count, own.shape[1]))
                features = encode_tiles(encoder, tiles, batch)
                reached.append(f"{count} tiles in batches of {batch}")
                found = bench.require_features(features, reference, reached[-1])
                worst = max(worst, found.maximum)
    return Finding(f"{'; '.join(reached)}: e at most {worst:.5f}", {"e max": worst})


def in_flight(bench: Workbench) -> Finding:
    """Several batches at once come back in order, each with its own features."""
    with bench.factory().encoder() as encoder:
        name = encoder.spec.inputs[0].name
        parts = np.array_split(np.arange(len(bench.tiles)), 2 * encoder.in_flight)
        rows = [part for part in parts if len(part)]
        found, buffers = [], []  # the engine's until their results are there
        for number, part in enumerate(rows):
            if number >= encoder.in_flight:
                found.append(np.array(encoder.result()["features"]))
            buffers.append(encoder.input_buffer(name, (len(part), *bench.tiles.shape[1:])))
            buffers[-1][:] = bench.tiles[part]
            encoder.submit({name: buffers[-1]})
        found += [np.array(encoder.result()["features"]) for _ in rows[-encoder.in_flight :]]
        error = bench.require_features(
            np.concatenate(found), bench.golden, f"{encoder.in_flight} batches in flight"
        )
    words = f"{len(rows)} batches, {encoder.in_flight} in flight: e at most {error.maximum:.5f}"
    return Finding(words, {"in flight": encoder.in_flight, "e max": error.maximum})


def as_cpu(bench: Workbench) -> Finding:
    """The encoder's features are those of the CPU engine in float32."""
    factory = bench.factory()
    with factory.encoder() as encoder:
        features = encode_tiles(encoder, bench.tiles, factory.options.batch)
    error = bench.require_features(features, bench.reference["golden"], "against the CPU engine")
    words = f"e median {error.median:.5f}, worst {error.maximum:.5f} from the CPU engine"
    return Finding(words, {"e median": error.median, "e max": error.maximum})


def bags(bench: Workbench) -> Finding:
    """Every head gives what the CPU gives, for bags from one tile to one that is folded."""
    if not bench.bundle.heads:
        raise NotRunError("the bundle has no heads")
    factory = bench.factory()
    figures = {"probability moved": 0.0, "attention Spearman": 1.0}
    with (
        HeadPanel(bench.bundle, factory) as panel,
        HeadPanel(bench.bundle, cpu_factory(bench)) as cpu,
    ):
        precisions = (info.precision for info in panel.infos.values())
        coarsest = max(precisions, key=lambda name: LIMITS[name].probabilities)
        for n in BAGS:
            bag = bench.bag(n)
            try:
                found = compare_reports(_panel(panel, bag), _panel(cpu, bag), coarsest)
            except CheckFailedError as error:
                raise CheckFailedError(f"a bag of {n} tiles: {error}") from error
            figures = {
                "probability moved": max(figures["probability moved"], found["probability moved"]),
                "attention Spearman": min(
                    figures["attention Spearman"], found["attention Spearman"]
                ),
            }
    sizes = ", ".join(map(str, BAGS))
    return Finding(f"bags of {sizes} tiles: {in_words(figures)}", figures)


def cpu_factory(bench: Workbench) -> EngineFactory:
    """Of the CPU engine that runs here, in float32. Raises NotRunError if there is none."""
    name = cpu_engine()
    if name is None:
        raise NotRunError("there is no CPU engine to compare with; pip install openvino")
    options = EngineOptions(backend=name, precision="float32", cache_dir=None)
    return EngineFactory(bench.bundle, options)


def _panel(panel: HeadPanel, bag: FeatureBag) -> dict[str, Array]:
    predictions, attention = panel.predict(bag)
    found: dict[str, Array] = {
        f"probabilities {one.head}": np.array(one.probabilities) for one in predictions
    }
    return found | {f"attention {name}": values for name, values in attention.items()}


def slide(bench: Workbench) -> Finding:
    """A whole slide is predicted as the CPU predicts it."""
    with bench.predictor() as predictor:
        report = bench.predict(predictor)
    ran = report.provenance
    figures = _as_reference(bench, report)
    figures |= {
        "tiles": ran.tiles,
        "tiles/s": ran.tiles_per_second,
        "encoder busy share": ran.encoder_busy_share,
    }
    words = f"{ran.tiles} tiles by {ran.reader}, {ran.tiles_per_second:.0f} tiles/s"
    return Finding(f"{words}; {in_words(figures)}", figures)


def two_slides(bench: Workbench) -> Finding:
    """Two slides at once through one engine are both predicted as one alone."""
    reports: list[Report] = []
    errors: list[BaseException] = []

    def predict() -> None:
        try:
            reports.append(bench.predict(predictor))
        except BaseException as error:  # noqa: BLE001 - raised again in the check's own thread
            errors.append(error)

    with bench.predictor() as predictor:
        threads = [threading.Thread(target=predict) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    found = [_as_reference(bench, report) for report in reports]
    figures = max(found, key=lambda one: one["probability moved"])
    return Finding(f"both: {in_words(figures)}", figures)


def _as_reference(bench: Workbench, report: Report) -> dict[str, float]:
    return compare_reports(report_arrays(report), bench.reference, bench.job.target.precision)


def in_words(figures: dict[str, float]) -> str:
    """What :func:`compare_reports` measured."""
    return (
        f"probabilities move by at most {figures['probability moved']:.5f}, attention's rank "
        f"correlation is at least {figures['attention Spearman']:.5f}"
    )


FIDELITY_CHECKS = (
    Check("build", "every graph compiles here, into an empty cache", build, BUILD_LIMIT_S),
    Check("goldens", "goldens give what torch gave", goldens),
    Check("as the CPU", "features are those of the CPU engine", as_cpu),
    Check("batch sizes", "a tile's features do not depend on its batch", batch_sizes, 600.0),
    Check("in flight", "batches at once keep their order and their features", in_flight),
    Check("bags", "heads are right for bags of any size", bags, 900.0),
    Check("slide", "a slide is predicted as the CPU predicts it", slide, 900.0),
    Check("two slides at once", "slides that share the engine do not mix", two_slides, 900.0),
)
