"""What `archive predict` and `archive extract` do alike: find, check, run, print."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pathgene_rt.archive.estimate import Estimate, estimate
from pathgene_rt.archive.ray_pool import RayPool
from pathgene_rt.archive.requirements import require_ray
from pathgene_rt.archive.run import RunResult
from pathgene_rt.archive.source import ArchiveSlide, find_archive
from pathgene_rt.archive.start import (
    Listeners,
    OpenPool,
    RunPlace,
    run_archive,
    several_bundles,
    sole_run,
)
from pathgene_rt.archive.stores import is_url
from pathgene_rt.archive.tasks import Ended, Kind, Task, WorkerSpec
from pathgene_rt.bundle.site_profile import read_profile
from pathgene_rt.cli.archive_status import size_text, time_text
from pathgene_rt.cli.choices import find_bundle
from pathgene_rt.cli.console import Console
from pathgene_rt.cli.pseudonymize import choose_pseudonyms, unnamed
from pathgene_rt.errors import BatchError, UsageError
from pathgene_rt.options import EngineOptions, PredictOptions, parse_bytes
from pathgene_rt.pseudonyms import KEY_VARIABLE, Pseudonyms
from pathgene_rt.site_trust import keyrings_of_site, require_signed_profile


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line asks for; ``predict`` and ``engine`` are options by their names."""

    kind: Kind
    source: str
    out: str
    bundle: Path | list[Path] | None
    ray: str
    workers: int
    threads: int
    predict: dict[str, Any]
    engine: dict[str, Any]
    max_rate: str
    nice: int
    stage: str
    stage_limit: str
    ranges: bool
    overwrite: bool
    dry_run: bool
    pseudonymize: bool
    pseudonym_key: Path | None
    require_signature: Path | None
    site: Path | None = None
    audit: Path | None = None

    @classmethod
    def of(cls, kind: Kind, given: Mapping[str, Any]) -> Asked:
        """``given`` are the values of a command's parameters by their names."""
        predict = {
            one.name: given[_PARAMETERS.get(one.name, one.name)]
            for one in fields(PredictOptions)
            if _PARAMETERS.get(one.name, one.name) in given
        }
        engine = {
            "backend": given["engine"],
            "precision": given["precision"],
            "batch": given["batch"],
        }
        own = {one.name for one in fields(cls)} - {"kind", "predict", "engine"}
        asked = {name: value for name, value in given.items() if name in own}
        return cls(kind=kind, predict=predict, engine=engine, **asked)

    def spec(self, pseudonyms: Pseudonyms | None) -> WorkerSpec:
        """What workers get. Raises BundleError, UsageError."""
        named = self.bundle if isinstance(self.bundle, list) else [self.bundle]
        bundles = several_bundles([find_bundle(one).absolute() for one in named or [None]])
        profile = None if self.site is None else read_profile(self.site)
        if self.site is not None and profile is not None:
            keyrings = keyrings_of_site(self.require_signature)
            require_signed_profile(self.site, profile.sha256, keyrings)
        return WorkerSpec(
            kind=self.kind,
            bundle=bundles[0][0],
            bundle_sha256=bundles[0][1],
            more_bundles=tuple(bundles[1:]),
            out=self.out if is_url(self.out) else str(Path(self.out).absolute()),
            predict={**self.predict, "pseudonyms": pseudonyms},
            engine=self.engine,
            overwrite=self.overwrite,
            site=absolute_text(self.site),
            site_sha256="" if profile is None else profile.sha256,
            audit=absolute_text(self.audit),
            keyring=absolute_text(self.require_signature),
            nice=self.nice,
            stage=self.stage,
            stage_limit=parse_bytes(self.stage_limit),
            ranges=self.ranges,
        )


_PARAMETERS = {"io_timeout_s": "io_timeout"}
"""Options that commands call otherwise than :class:`PredictOptions` does."""


def absolute_text(path: Path | None) -> str:
    """``path`` from the root, as workers need it; empty for none."""
    return "" if path is None else str(path.absolute())


def run(asked: Asked, console: Console) -> None:
    """Do it. Raises as :func:`do`, UsageError."""
    require_ray()
    if re.match(r"[a-z][a-z0-9+.-]+:/(?!/)", asked.out):
        raise UsageError(f"--out {asked.out} is neither a folder nor an address; write two slashes")
    options = PredictOptions(**asked.predict)
    EngineOptions(**asked.engine, threads=asked.threads)
    if not 0 <= asked.workers <= 100_000:
        raise UsageError(f"--workers {asked.workers} is out of range; choose 0 (automatic) or more")
    max_rate = parse_bytes(asked.max_rate) if asked.max_rate else 0
    pseudonyms = lasting_pseudonyms(asked.pseudonymize, asked.pseudonym_key, console)
    spec = asked.spec(pseudonyms)

    def open_pool(spec: WorkerSpec) -> RayPool:
        return RayPool(spec, address=asked.ray, workers=asked.workers, threads=asked.threads)

    with sole_run(asked.out, console.note) as place:
        with unnamed(pseudonyms):
            slides = find_archive(asked.source, place.layout.out, console.note, pseudonyms)
        if options.mpp_override is not None and any(one.mpp is not None for one in slides):
            raise UsageError("--mpp-override and a manifest's column mpp exclude each other")
        if asked.dry_run:
            pool = open_pool(spec)
            try:
                found = estimate(slides, pool)
            finally:
                pool.close()
            _print_estimate(found, console)
            return
        result = do(place, slides, spec, open_pool, console, max_rate)
    finish(result, slides, console)


def lasting_pseudonyms(wanted: bool, key: Path | None, console: Console) -> Pseudonyms | None:
    """Those under the site's key: a run that goes on must find what was done. Raises UsageError."""
    pseudonyms = choose_pseudonyms(wanted, key, console)
    if pseudonyms is not None and not pseudonyms.lasting:
        raise UsageError(f"an archive's --pseudonymize needs --pseudonym-key or ${KEY_VARIABLE}")
    return pseudonyms


def do(
    place: RunPlace,
    slides: list[ArchiveSlide],
    spec: WorkerSpec,
    open_pool: OpenPool,
    console: Console,
    max_rate: int = 0,
) -> RunResult:
    """:func:`~pathgene_rt.archive.start.run_archive`, with a bar, and each failure told."""
    # Ray prints to stdout what it sees of workers that die, which is told by their events.
    with console.items(len(slides)) as bar, open(os.devnull, "w") as nowhere:  # noqa: PTH123

        def ended(task: Task, what: Ended) -> None:
            _tell(task, what, console)
            bar.ended(task.name, what.outcome)

        heard = Listeners(ended, console.note)
        with redirect_stdout(nowhere):
            return run_archive(place, slides, spec, open_pool, heard, max_rate=max_rate)


def _tell(task: Task, ended: Ended, console: Console) -> None:
    if ended.error is not None:
        console.warn(f"{task.name}: {ended.error}")
    elif ended.note:
        console.note(f"{task.name}: {ended.note}")


def _print_estimate(found: Estimate, console: Console) -> None:
    console.emit(found.to_dict())
    for name, reason in found.failed.items():
        console.warn(f"{name}, of the sample: {reason}")
    cases = f" of {found.cases} cases" if found.cases else ""
    console.say(f"{found.slides} slides{cases}, {size_text(found.bytes)}")
    if found.hours is None:
        console.say("how long it takes cannot be told: no slide of the sample could be done")
        return
    rate = found.sample_bytes / max(found.seconds, 1e-9)
    console.say(
        f"{len(found.sample) - len(found.failed)} of them took {found.seconds:.1f} s, "
        f"{size_text(rate)}/s; with {found.workers} workers all take about "
        f"{time_text(found.hours * 3600)}"
    )


def finish(result: RunResult, slides: list[ArchiveSlide], console: Console) -> None:
    """Print what became of all. Raises BatchError if some failed, a single slide's own error."""
    failures = {
        name: {"reason": str(error), "exit_code": error.exit_code}
        for name, error in sorted(result.failures.items())
    }
    counts = {"slides": dict(result.slides), "cases": dict(result.cases)}
    console.emit({**counts, "failures": failures})
    for what, count in counts.items():
        if count:
            told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(count.items()))
            console.say(f"{what}: {told}")
    if result.failures and len(slides) == 1 and not result.cases:
        raise next(iter(result.failures.values()))
    if result.failures:
        failed = " and ".join(
            f"{count['failed']} of {sum(count.values())} {what}"
            for what, count in counts.items()
            if count.get("failed")
        )
        raise BatchError(f"{failed} failed; the reasons are above, and archive status has them")
