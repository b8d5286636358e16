"""Documents about a bundle at a site, in both languages; figures are put into words here."""

from __future__ import annotations

from pathlib import Path

from pathgene_rt.files import write_bytes, write_json
from pathgene_rt.options import Language
from pathgene_rt.pages.render import render
from pathgene_rt.site.compare import COMPARISON_FILE, COMPARISON_PAGE, SiteComparison
from pathgene_rt.site.figures import LEAST_CASES
from pathgene_rt.site.validate import PAGE_FILE, VALIDATION_FILE, Validation


def validation_page(validation: Validation, language: Language = "en") -> str:
    """IQ, OQ and PQ, with places to sign."""
    return render(
        "validation.html.j2",
        validation=validation,
        created=validation.created,
        language=language,
        least_cases=LEAST_CASES,
        calls={
            head.head: sorted({call for row in head.calls.values() for call in row})
            for head in validation.heads
        },
    )


def write_validation(validation: Validation, folder: Path, language: Language) -> None:
    """Write the page and then the document into ``folder``. Raises OutputError."""
    write_bytes(folder / PAGE_FILE, validation_page(validation, language).encode())
    write_json(folder / VALIDATION_FILE, validation.to_dict())


def comparison_page(comparison: SiteComparison, language: Language = "en") -> str:
    """Both bundles side by side, and the cases on which they differ."""
    return render(
        "comparison.html.j2",
        comparison=comparison,
        created=comparison.created,
        language=language,
    )


def write_comparison(comparison: SiteComparison, folder: Path, language: Language) -> None:
    """Write the page and then the document into ``folder``. Raises OutputError."""
    write_bytes(folder / COMPARISON_PAGE, comparison_page(comparison, language).encode())
    write_json(folder / COMPARISON_FILE, comparison.to_dict())
