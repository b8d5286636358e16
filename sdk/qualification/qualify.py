"""One document for installation (IQ) and operation (OQ): packages, goldens, limits, error paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pathgene_rt.acceptance.acceptance import accept
from pathgene_rt.acceptance.checks import CHECKS
from pathgene_rt.acceptance.result import AcceptanceReport
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.engines.diagnosis import diagnose
from pathgene_rt.errors import EngineUnavailableError, VerificationError
from pathgene_rt.files import writable_folder, write_bytes, write_json
from pathgene_rt.options import EngineOptions, default_cache_dir
from pathgene_rt.pages.render import render
from pathgene_rt.qualification.distributions import installed as installed_packages
from pathgene_rt.qualification.distributions import runtime_distributions
from pathgene_rt.qualification.records import PackageRecord, check_records
from pathgene_rt.report.report import utc_now
from pathgene_rt.site.installation import Installed, Operation, installed, operation

JSON_FILE, HTML_FILE = "qualification.json", "qualification.html"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Qualification:
    """IQ: ``installed`` and the ``records`` of packages. OQ: ``operation``, the goldens on the
    engine that predicts here, and ``acceptance``, the checks of every engine. ``licence`` is the
    bundle's."""

    installed: Installed
    licence: str
    records: tuple[PackageRecord, ...]
    operation: Operation
    acceptance: AcceptanceReport
    created: str = field(default_factory=utc_now)
    schema_version: int = SCHEMA_VERSION

    @property
    def failures(self) -> list[str]:
        """What is not as it should be, a line each."""
        found = [
            f"{one.name}: {len(one.problems)} of {one.checked} files are not as installed"
            for one in self.records
            if not one.passed
        ]
        if not self.operation.passed:
            found.append("goldens: outside their limits")
        failed = self.acceptance.count("failed")
        if failed:
            found.append(f"engines: {failed} checks failed")
        return found

    def require_passed(self) -> None:
        """Raise VerificationError unless everything is as it should be, EngineUnavailableError if
        no check of an engine could be made."""
        if self.failures:
            raise VerificationError(f"not qualified: {'; '.join(self.failures)}; see the document")
        if not self.acceptance.count("passed"):
            raise EngineUnavailableError(self.acceptance.verdict)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``qualification.json``."""
        return {
            "schema_version": self.schema_version,
            "created": self.created,
            "qualified": not self.failures,
            "failures": self.failures,
            "installed": self.installed.to_dict(),
            "licence": self.licence,
            "records": [one.to_dict() for one in self.records],
            "operation": self.operation.to_dict(),
            "acceptance": self.acceptance.to_dict(),
        }


def qualify(
    bundle: Path,
    out: Path,
    *,
    slide: Path | None = None,
    engines: Sequence[str] | None = None,
    checks: Sequence[str] = tuple(CHECKS),
    progress: Callable[[str], None] = lambda _: None,
) -> Qualification:
    """Qualify this machine with the bundle at ``bundle``; ``engines`` None: all that run here, of
    the CPU and of GPUs.

    Writes ``qualification.json`` and ``.html`` to the folder ``out``, and those of the acceptance.
    ``slide`` and ``checks`` are those of :func:`accept`. Raises BundleError, OutputError,
    EngineUnavailableError, EngineError; what is found wrong is in the document.
    """
    writable_folder(out)
    progress("the files of packages against their recorded hashes")
    records = check_records(runtime_distributions(installed_packages()).values())
    with Bundle.open(bundle) as opened:
        here, licence = installed(opened), opened.manifest.licence
        progress("the bundle's goldens")
        ran = operation(opened, EngineOptions())
    if engines is None:
        found = diagnose(default_cache_dir()).engines
        engines = [name for name, engine in found.items() if not engine.reason]
    accepted = accept(bundle, out, slide=slide, engines=engines, checks=checks, progress=progress)
    document = Qualification(
        installed=here, licence=licence, records=records, operation=ran, acceptance=accepted
    )
    write_json(out / JSON_FILE, document.to_dict())
    write_bytes(out / HTML_FILE, page(document).encode())
    return document


def page(document: Qualification) -> str:
    """The document to read, print and sign."""
    targets = list(document.acceptance.by_target())
    return render(
        "qualification.html.j2",
        found=document,
        created=document.created,
        targets=targets,
        proves={name: check.proves for name, check in CHECKS.items()},
        language="en",
    )
