"""One run of acceptance: which engines there are, their checks, and the report."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

from pathgene_rt.acceptance.checks import CHECKS
from pathgene_rt.acceptance.golden_slide import write_golden_slide
from pathgene_rt.acceptance.isolation import Outcome, run_isolated
from pathgene_rt.acceptance.native_calls import RECORDS
from pathgene_rt.acceptance.report_html import write_html
from pathgene_rt.acceptance.result import AcceptanceReport, CheckResult, Target
from pathgene_rt.acceptance.workbench import Job, cpu_engine
from pathgene_rt.acceptance.worker import PROBE, REFERENCE
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.engines.cuda.driver import GpuInfo, cuda_devices, driver_problem
from pathgene_rt.engines.registry import backend_names
from pathgene_rt.files import writable_folder, write_json
from pathgene_rt.options import Precision
from pathgene_rt.report.report import software_versions

JSON_FILE, HTML_FILE = "acceptance.json", "acceptance.html"
PROBE_LIMIT_S, REFERENCE_LIMIT_S = 300.0, 3600.0
"""A slide of the user's own on the CPU in float32 takes long."""

PACKAGES = (
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-rtx-cu12-libs",
    "tensorrt-rtx-cu13-libs",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "cuda-core",
    "pycuda",
    "nvidia-nvimgcodec-cu12",
    "nvidia-cudnn-cu13",
    "nvidia-cublas",
)
"""Whose versions matter to what was found."""

GPU_ENGINES = backend_names(on_gpu=True)
"""In the order in which `auto` prefers them."""


def accept(
    bundle: Path,
    out: Path,
    *,
    slide: Path | None = None,
    engines: Sequence[str] = GPU_ENGINES,
    checks: Sequence[str] = tuple(CHECKS),
    progress: Callable[[str], None] = lambda _: None,
) -> AcceptanceReport:
    """Make ``checks`` on every one of ``engines`` in every precision that it offers here.

    Writes ``acceptance.json`` and ``acceptance.html`` to the folder ``out``. ``slide`` is predicted
    in place of one made of the golden tiles. ``progress`` is called with what is done next. Raises
    BundleError, OutputError; what checks find is in the report.
    """
    began = time.monotonic()
    writable_folder(out)
    with (
        Bundle.open(bundle) as opened,
        tempfile.TemporaryDirectory(
            prefix="pathgene-rt-acceptance-", ignore_cleanup_errors=True
        ) as name,
    ):
        folder = Path(name)
        if slide is None:
            slide = folder / "golden-tiles.svs"
            write_golden_slide(slide, opened.golden("encoder")["tiles"], opened.preprocess.mpp)
        run = _Run(opened, slide, folder, tuple(checks), progress)
        run.all(engines)
        report = AcceptanceReport(
            bundle=opened.manifest.name,
            bundle_sha256=opened.sha256,
            gpus=tuple(_described(gpu) for gpu in cuda_devices()),
            problems=run.problems,
            results=tuple(run.results),
            calls=tuple(sorted(run.calls)) if RECORDS else None,
            seconds=time.monotonic() - began,
            versions={**software_versions(), **_installed()},
        )
    write_json(out / JSON_FILE, report.to_dict())
    write_html(out / HTML_FILE, report)
    return report


class _Run:
    """The jobs of one acceptance and what they said."""

    def __init__(
        self,
        bundle: Bundle,
        slide: Path,
        folder: Path,
        checks: tuple[str, ...],
        progress: Callable[[str], None],
    ) -> None:
        self._bundle, self._slide, self._folder = bundle, slide, folder
        self._checks = checks
        self._progress = progress
        self._reference: Path | None = None
        self.problems: dict[str, str] = {}
        self.results: list[CheckResult] = []
        self.calls: set[str] = set()

    def all(self, engines: Sequence[str]) -> None:
        """Every engine that is here in every precision; the others' checks are not run."""
        targets: list[Target] = []
        for name in engines:
            if name in GPU_ENGINES and (problem := driver_problem()):
                self.problems[name] = f"no NVIDIA GPU ({problem})"
                self._leave_out(name, "", self.problems[name])
                continue
            # Not in this process: probing loads drivers, and keeps some of the card's memory.
            probed = self._outcome(self._job(Target(name, "float32"), (PROBE,), None)).results[0]
            if probed.status == "failed":  # it crashed, or stood still
                self.results.append(replace(probed, precision=""))
            if probed.status != "passed":
                self.problems[name] = probed.detail
                self._leave_out(name, "", probed.detail)
                continue
            for precision in cast(list[Precision], probed.detail.split()):
                if why := self._lacks(precision):
                    self._leave_out(name, precision, why)
                else:
                    targets.append(Target(name, precision))
        if targets:
            self._keep_reference()
        for target in targets:
            self._one(target)

    def _lacks(self, precision: Precision) -> str:
        """What the bundle lacks for engines in ``precision``, or an empty string."""
        if precision == "float16" and self._bundle.encoder.float16 is None:
            return "the bundle has no float16 graph of its encoder; export it again"
        if precision == "int8":
            return "int8 needs a calibration on slides, which a fresh cache has not"
        return ""

    def _leave_out(self, engine: str, precision: str, why: str) -> None:
        self.results += [
            CheckResult(engine, precision, check, "not run", why) for check in self._checks
        ]

    def _keep_reference(self) -> None:
        """What the CPU says, for the engines to be compared with."""
        name = cpu_engine()
        if name is None:
            self.problems[REFERENCE] = "no CPU engine is installed; pip install openvino"
            return
        reference = self._folder / "reference.npz"
        job = self._job(Target(name, "float32"), (REFERENCE,), reference)
        outcome = self._outcome(job)
        if outcome.results[0].status == "passed":
            self._reference = reference
        else:
            self.problems[REFERENCE] = f"{name}: {outcome.results[0].detail}"

    def _one(self, target: Target) -> None:
        """First what is recorded, then what is timed: recording takes time."""
        for timing in (False, True):
            names = tuple(name for name in self._checks if CHECKS[name].timing == timing)
            job = self._job(target, names, self._reference, recorded=not timing)
            outcome = self._outcome(job)
            self.results += outcome.results
            self.calls |= outcome.calls
        shutil.rmtree(self._folder / "cache", ignore_errors=True)

    def _job(
        self,
        target: Target,
        checks: tuple[str, ...],
        reference: Path | None,
        *,
        recorded: bool = False,
    ) -> Job:
        gpu = target.engine in GPU_ENGINES
        return Job(
            self._bundle.path,
            self._slide,
            self._folder,
            target,
            checks,
            reference,
            gpu,
            recorded=recorded,
        )

    def _outcome(self, job: Job) -> Outcome:
        limits = {name: check.limit_s for name, check in CHECKS.items()}
        return run_isolated(
            job,
            {**limits, PROBE: PROBE_LIMIT_S, REFERENCE: REFERENCE_LIMIT_S},
            lambda check: self._progress(f"{job.target}: {check}"),
        )


def _described(gpu: GpuInfo) -> str:
    capability = ".".join(map(str, gpu.compute_capability))
    driver = ".".join(map(str, gpu.driver_version))
    memory = f"{gpu.memory_total / 1e9:.1f} GB"
    return f"{gpu.name} (compute capability {capability}, {memory}, driver for CUDA {driver})"


def _installed() -> dict[str, str]:
    """Versions of the packages that engines are made of, those that are there."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
