"""Whether a slide is like those that a bundle was trained on."""

from __future__ import annotations

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.errors import BundleError
from pathgene_rt.features.domain import DomainDescription, DomainVerdict
from pathgene_rt.heads.decision import Reason


def domain_of(bundle: Bundle) -> DomainDescription | None:
    """The description of the slides of training, or of those of the bundle's site; None if there is
    none. Raises BundleError."""
    spec, site = bundle.manifest.domain, bundle.site
    if spec is None:
        return None
    at_site = site is not None and site.domain is not None
    where, again = f"{spec.file} in {bundle.path}", "export the bundle again"
    if at_site:
        where, again = "the site profile", "make the profile again"
    try:
        if site is not None and site.domain is not None:
            arrays = site.domain.read()
        else:
            arrays = bundle.arrays(spec.file)
        description = DomainDescription.of_arrays(
            arrays, reference="site" if at_site else "training"
        )
    except ValueError as error:
        raise BundleError(f"{where} describes no domain: {error}; {again}") from error
    if description.width != bundle.feature_dim:
        raise BundleError(
            f"{where} describes {description.width} features a tile, the encoder gives "
            f"{bundle.feature_dim}; {again}"
        )
    return description


def outside_domain(verdict: DomainVerdict | None) -> tuple[Reason, ...]:
    """Why a slide that is unlike those of training gets no answer."""
    if verdict is None or not verdict.outside:
        return ()
    return (
        Reason(
            code="outside_site" if verdict.reference == "site" else "outside_domain",
            figures={"percentile": verdict.percentile, "cases": verdict.cases},
        ),
    )


def domain_warnings(verdict: DomainVerdict | None) -> tuple[str, ...]:
    """For the report, of a slide that is unlike those of training."""
    if verdict is None or not verdict.outside:
        return ()
    if verdict.reference == "site":
        return (
            f"the slide is less like those of the site's calibration than {verdict.percentile:.1f} "
            "% of them: the site profile may not hold for it; check stain, focus, scanner and "
            "tissue",
        )
    return (
        f"the slide is less like those of training than {verdict.percentile:.1f} % of them: "
        "figures of training may not hold for it; check stain, focus, scanner and tissue",
    )
