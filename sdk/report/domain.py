"""Whether a slide is like those that a bundle was trained on."""

from __future__ import annotations

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.errors import BundleError
from pathgene_rt.features.domain import DomainDescription, DomainVerdict
from pathgene_rt.heads.decision import Reason


def domain_of(bundle: Bundle) -> DomainDescription | None:
    """The bundle's description of its training, None if it has none. Raises BundleError."""
    spec = bundle.manifest.domain
    if spec is None:
        return None
    try:
        description = DomainDescription.of_arrays(bundle.arrays(spec.file))
    except ValueError as error:
        raise BundleError(
            f"{spec.file} in {bundle.path} describes no domain: {error}; export the bundle again"
        ) from error
    if description.width != bundle.feature_dim:
        raise BundleError(
            f"{spec.file} in {bundle.path} describes {description.width} features a tile, the "
            f"encoder gives {bundle.feature_dim}; export the bundle again"
        )
    return description


def outside_domain(verdict: DomainVerdict | None) -> tuple[Reason, ...]:
    """Why a slide that is unlike those of training gets no answer."""
    if verdict is None or not verdict.outside:
        return ()
    return (
        Reason(
            code="outside_domain",
            figures={"percentile": verdict.percentile, "cases": verdict.cases},
        ),
    )


def domain_warnings(verdict: DomainVerdict | None) -> tuple[str, ...]:
    """For the report, of a slide that is unlike those of training."""
    if verdict is None or not verdict.outside:
        return ()
    return (
        f"the slide is less like those of training than {verdict.percentile:.1f} % of them: "
        "figures of training may not hold for it; check stain, focus, scanner and tissue",
    )
