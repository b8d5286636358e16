"""``predict --devices``: slides shared among the GPUs of this machine, a worker each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from pathgene_rt.archive.ray_pool import RayPool
from pathgene_rt.archive.requirements import require_ray
from pathgene_rt.archive.source import given_slides
from pathgene_rt.archive.start import bundle_sha256, sole_run
from pathgene_rt.archive.tasks import WorkerSpec
from pathgene_rt.cases.table import Case
from pathgene_rt.cli.archive_run import absolute_text, do, finish
from pathgene_rt.cli.console import Console
from pathgene_rt.engines.registry import backend_names
from pathgene_rt.errors import UsageError
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.pseudonyms import KEY_VARIABLE

_OF_THE_RUN = ("slide_id", "resume")


@dataclass(frozen=True)
class Trust:
    """Paths of the site profile, which has the hash ``site_sha256``, of the audit trail, and of the
    keyring that bundles must be signed by; None where there is none."""

    site: Path | None = None
    site_sha256: str = ""
    audit: Path | None = None
    keyring: Path | None = None


def read_devices(text: str) -> tuple[str, ...]:
    """Numbers of GPUs; none for all. Raises UsageError."""
    if text == "all":
        return ()
    numbers = tuple(text.split(","))
    if not all(re.fullmatch(r"\d{1,3}", one) for one in numbers) or len(set(numbers)) < len(
        numbers
    ):
        raise UsageError(f"--devices {text} names no GPUs; give their numbers, 0,1,2, or all")
    return numbers


def predict_on_devices(
    devices: str,
    slides: Sequence[Path],
    cases: Sequence[Case],
    out: Path,
    bundle: Path,
    options: PredictOptions,
    engines: EngineOptions,
    trust: Trust,
    console: Console,
    *,
    overwrite: bool,
) -> None:
    """Predict all of them to the folders that `predict` has. Raises UsageError for options that
    do not go with it, EngineUnavailableError where there is no GPU, and as `predict` does.
    """
    require_ray()
    numbers = read_devices(devices)
    if engines.backend in backend_names(on_gpu=False):
        raise UsageError(f"--engine {engines.backend} uses no GPU; leave out --devices")
    for name, wrong in (
        (
            f"--pseudonymize without --pseudonym-key or ${KEY_VARIABLE}",
            options.pseudonyms is not None and not options.pseudonyms.lasting,
        ),
        ("--resume", options.resume),
        ("--threads", engines.threads != 0),
    ):
        if wrong:
            raise UsageError(f"{name} does not go with --devices; leave one of them out")
    chosen = [one.name for one in fields(options) if one.name not in _OF_THE_RUN]
    spec = WorkerSpec(
        kind="predict",
        bundle=str(bundle.absolute()),
        bundle_sha256=bundle_sha256(bundle),
        out=str(out.absolute()),
        predict={name: getattr(options, name) for name in chosen},
        engine={
            "backend": engines.backend,
            "precision": engines.precision,
            "batch": engines.batch,
        },
        overwrite=overwrite,
        site=absolute_text(trust.site),
        site_sha256=trust.site_sha256,
        audit=absolute_text(trust.audit),
        keyring=absolute_text(trust.keyring),
    )
    hidden = options.pseudonyms
    with sole_run(out) as place:
        paths = [slide.absolute() for slide in slides]
        found = given_slides(paths, cases_at(cases), place.layout.out, hidden)
        result = do(place, found, spec, lambda spec: RayPool(spec, devices=numbers), console)
    finish(result, found, console)


def cases_at(cases: Sequence[Case]) -> list[Case]:
    """``cases`` with the paths of their slides from the root, as workers need them."""
    return [Case(one.case_id, tuple(path.absolute() for path in one.slides)) for one in cases]
