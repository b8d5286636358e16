"""What acceptance found: one result a check, the native functions called, one verdict."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from pathgene_rt.errors import EngineUnavailableError, VerificationError
from pathgene_rt.options import Precision
from pathgene_rt.report.report import software_versions, utc_now

SCHEMA_VERSION = 2

Status = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Target:
    """One engine in one precision: what the checks are made on."""

    engine: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


@dataclass(frozen=True)
class CheckResult:
    """``detail`` is what was found, why it failed, or why it was not run; ``figures`` are what was
    measured, by name with its unit.
    """

    engine: str
    precision: str
    check: str
    status: Status
    detail: str
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AcceptanceReport:
    """Everything that was tried. ``gpus`` are the cards that the driver names; ``problems`` say why
    engines could not be tried; ``calls`` are the native functions that the engines' source called,
    by the names that docs/gpu.md lists, None where this Python does not tell (before 3.12).
    """

    bundle: str
    bundle_sha256: str
    gpus: tuple[str, ...]
    problems: dict[str, str]
    results: tuple[CheckResult, ...]
    calls: tuple[str, ...] | None
    seconds: float
    created: str = field(default_factory=utc_now)
    system: str = field(default_factory=platform.platform)
    versions: dict[str, str] = field(default_factory=software_versions)

    WORDS: ClassVar[dict[Status, str]] = {
        "passed": "passed",
        "failed": "FAILED",
        "not run": "not run",
    }

    def count(self, status: Status) -> int:
        """How many checks ended so."""
        return sum(result.status == status for result in self.results)

    @property
    def verdict(self) -> str:
        """The report in one line."""
        if self.count("passed") + self.count("failed") == 0:
            reasons = dict.fromkeys(
                (*self.problems.values(), *(one.detail for one in self.results))
            )
            return f"nothing could be run: {'; '.join(reasons) or 'no engine was named'}"
        counts = [f"{self.count(status)} {word}" for status, word in self.WORDS.items()]
        return f"{'NOT ' if self.count('failed') else ''}accepted: {', '.join(counts)}"

    def by_target(self) -> Iterator[tuple[str, list[CheckResult], str]]:
        """(engine and precision, its results, why none of them was run or an empty string)."""
        targets: dict[str, list[CheckResult]] = {}
        for result in self.results:
            targets.setdefault(f"{result.engine} {result.precision}".strip(), []).append(result)
        for name, results in targets.items():
            why = {(result.status, result.detail) for result in results}
            status, detail = next(iter(why))
            yield name, results, detail if len(why) == 1 and status == "not run" else ""

    def require_passed(self) -> None:
        """Raise VerificationError if a check failed, EngineUnavailableError if none could run."""
        if self.count("failed"):
            raise VerificationError(f"{self.verdict}; see the report")
        if not self.count("passed"):
            raise EngineUnavailableError(self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in ``acceptance.json``."""
        return {"schema_version": SCHEMA_VERSION, "verdict": self.verdict, **asdict(self)}
