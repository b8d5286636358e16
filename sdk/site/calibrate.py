"""A site profile from a site's own slides: calibration, cut-offs, and what its slides are like."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.calibration import TemperatureScaling
from pathgene_rt.bundle.site_profile import (
    ProfiledBundle,
    ProfiledSlides,
    SiteDomain,
    SiteHead,
    SiteProfile,
)
from pathgene_rt.bundle.spec import HeadSpec
from pathgene_rt.bundle.zones import DecisionZones, can_have_zones, cut_offs
from pathgene_rt.errors import UsageError
from pathgene_rt.evaluation.calibration import fit_calibration
from pathgene_rt.evaluation.recalibration import LogOddsMap, case_weights, fit_map, left_out
from pathgene_rt.evaluation.reliability import brier_score, calibration_error, log_loss
from pathgene_rt.evaluation.zones import CaseScores, fit_zones
from pathgene_rt.evaluation.zones_config import ZonesConfig
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.describe_domain import LEAST_CASES, describe_domain
from pathgene_rt.features.hdf5 import read_features
from pathgene_rt.features.left_out import usable_tiles
from pathgene_rt.report.features_file import FEATURES_FILE
from pathgene_rt.report.report import utc_now
from pathgene_rt.site.cases import group_cases
from pathgene_rt.site.slides import KnownSlides, PredictedSlide

LEAST_SLIDES = 30
"""What MSIntuit is calibrated on for each scanner (C. Saillard and others, Nature Communications
14, 2023)."""

_INADEQUATE = frozenset(
    {"too_little_tissue", "too_few_tiles", "too_much_unusable", "too_much_excluded"}
)
_ENOUGH_FOR_A_SHARE = 200
"""Cases, by which a share is known within 0.07."""

_DEFAULT_ALARM = 0.05
_EDGE = 1e-9


@dataclass(frozen=True, kw_only=True)
class CalibrationChoice:
    """``prevalence`` is the share of positive cases where the slides come from: it must be given if
    they were chosen by their class, and is better than their own share where it is known. Cut-offs:
    what ``zones`` states; without it, what the bundle's own state, anew; with ``keep_cut_offs`` the
    bundle's own, moved with the probabilities, so that every slide is called as before."""

    prevalence: float | None = None
    zones: ZonesConfig | None = None
    keep_cut_offs: bool = False

    def __post_init__(self) -> None:
        if self.prevalence is not None and not 0 < self.prevalence < 1:
            raise UsageError(f"a prevalence of {self.prevalence:g} is none; give one in 0 to 1")
        if self.zones is not None and self.keep_cut_offs:
            raise UsageError("--keep-cut-offs and cut-offs for stated shares exclude each other")


@dataclass(frozen=True)
class CalibratedSite:
    """The ``profile``, not yet written, and ``notes`` on what is not in it, and why."""

    profile: SiteProfile
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Case:
    """``log_odds`` of the positive class of its slides on average, as the bundle calibrates them,
    and of each slide; ``logits`` on average; ``truth`` bool [classes]."""

    case_id: str
    logits: np.ndarray[Any, Any]
    slides: np.ndarray[Any, Any]
    truth: np.ndarray[Any, Any]


def calibrate_site(
    name: str,
    known: KnownSlides,
    slides: Sequence[PredictedSlide],
    bundle: Bundle,
    choice: CalibrationChoice,
) -> CalibratedSite:
    """A profile ``name`` of the ``slides``, of which ``known`` has the labels.

    Slides that are inadequate are left out; those that are unlike training are not, for a scanner
    that makes them so is what a site calibrates for. Raises UsageError for fewer than LEAST_SLIDES
    slides, cases of one class only, and cut-offs that the cases cannot support.
    """
    if bundle.site is not None:
        raise UsageError("a site profile is made of the bundle alone; leave out --site")
    notes: list[str] = []
    kept = [
        slide
        for slide in slides
        if not any(_INADEQUATE & set(codes) for codes in slide.reasons.values())
    ]
    if len(kept) < len(slides):
        notes.append(f"{len(slides) - len(kept)} slides are inadequate and were left out")
    heads = {}
    for head in bundle.heads:
        if head.name in known.columns:
            heads[head.name] = _calibrated(head, _cases(head, known, kept, bundle), choice, notes)
    cases = {row.slide_id: row.case_id for row in known.rows}
    profile = SiteProfile(
        name=name,
        created=utc_now(),
        bundle=ProfiledBundle(
            name=bundle.manifest.name, version=bundle.manifest.version, sha256=bundle.sha256
        ),
        slides=ProfiledSlides(
            count=len(kept),
            cases=len({cases[slide.slide_id] for slide in kept}),
            sha256=slides_hash(known, kept),
        ),
        heads=heads,
        domain=_domain(kept, cases, bundle, notes),
    )
    bundle.at_site(profile)  # what it cannot be is found before it is written
    return CalibratedSite(profile, tuple(notes))


def slides_hash(known: KnownSlides, slides: Sequence[PredictedSlide]) -> str:
    """SHA-256 over the hashes, cases and labels of ``slides``, in the order of their ids."""
    rows = {row.slide_id: row for row in known.rows}
    whole = hashlib.sha256()
    for slide in sorted(slides, key=lambda one: one.slide_id):
        row = rows[slide.slide_id]
        labels = sorted((head, sorted(truth)) for head, truth in row.truth.items())
        whole.update(repr((slide.slide_id, slide.sha256, row.case_id, labels)).encode())
    return whole.hexdigest()


def _cases(
    head: HeadSpec, known: KnownSlides, kept: Sequence[PredictedSlide], bundle: Bundle
) -> list[_Case]:
    """Those of at least LEAST_SLIDES slides. Raises UsageError."""
    there = {slide.slide_id for slide in kept}
    rows = [row for row in known.rows if row.slide_id in there and head.name in row.truth]
    if len(rows) < LEAST_SLIDES:
        raise UsageError(
            f"head {head.name}: {len(rows)} slides have a label and can be used, a calibration "
            f"takes at least {LEAST_SLIDES}; add slides"
        )
    labelled = replace(known, rows=tuple(rows))
    found = []
    for case in group_cases(labelled, kept, bundle):
        logits = np.array([slide.predictions[head.name].logits for slide in case.slides])
        truth = np.array([one in case.truth[head.name] for one in head.model.classes])
        found.append(_Case(case.case_id, logits.mean(axis=0), logits, truth))
    truth = np.array([case.truth for case in found])
    for place, name in enumerate(head.model.classes):
        if truth[:, place].all() or not truth[:, place].any():
            every = "every case is" if truth[:, place].all() else "no case is"
            raise UsageError(
                f"{known.path}: {every} {name!r} in column {known.columns[head.name]}; a "
                "calibration takes cases of each class"
            )
    return found


def _calibrated(
    head: HeadSpec, cases: Sequence[_Case], choice: CalibrationChoice, notes: list[str]
) -> SiteHead:
    if can_have_zones(len(head.model.classes), head.model.activation):
        return _shifted(head, cases, choice, notes)
    logits = np.array([case.logits for case in cases])
    truth = np.array([case.truth for case in cases])
    activation = head.calibration.activation
    fitted = fit_calibration(logits, truth, activation)
    own = head.calibration.apply(logits)
    after = np.empty_like(own)
    folds = np.arange(len(cases)) % min(len(cases), 10)
    for fold in np.unique(folds):
        out = folds == fold
        after[out] = fit_calibration(logits[~out], truth[~out], activation).apply(logits[out])
    ones = np.ones(truth.size)
    return SiteHead(
        temperature=fitted.temperature,
        threshold=head.task.threshold,
        cases=len(cases),
        before=_errors(own.ravel(), truth.ravel(), ones),
        after=_errors(after.ravel(), truth.ravel(), ones),
    )


def _shifted(
    head: HeadSpec, cases: Sequence[_Case], choice: CalibrationChoice, notes: list[str]
) -> SiteHead:
    """Stretched and shifted log-odds of the positive class, and cut-offs on them."""
    own = head.calibration
    truth = np.array([bool(case.truth[-1]) for case in cases])
    log_odds = np.array([float(own.log_odds(case.logits)[-1]) for case in cases])
    fitted = fit_map(log_odds, truth, choice.prevalence)
    if choice.prevalence is None and len(cases) < _ENOUGH_FOR_A_SHARE:
        notes.append(
            f"{head.name}: {truth.mean():.0%} of these {len(cases)} cases are positive, and that "
            "is taken for the site's share; --prevalence with the laboratory's own does better"
        )
    temperature = own.temperature / fitted.stretch
    offset = fitted.stretch * own.offset + fitted.shift
    weights = case_weights(truth, choice.prevalence)
    calibration = TemperatureScaling(own.activation, temperature, offset)
    threshold, zones = head.task.threshold, head.task.zones
    if choice.keep_cut_offs:
        threshold, zones = _moved(threshold, fitted), _moved_zones(zones, fitted)
    else:
        config = choice.zones or _stated_by(zones)
        zones = None
        if config is not None:
            zones = _zones(head, config, cases, calibration, notes)
            if zones is not None:
                threshold = min(max(threshold, zones.low), zones.high)
    return SiteHead(
        temperature=temperature,
        offset=offset,
        threshold=min(max(threshold, _EDGE), 1 - _EDGE),
        zones=zones,
        cases=len(cases),
        before=_errors(LogOddsMap(1, 0).probabilities(log_odds), truth, weights),
        after=_errors(left_out(log_odds, truth, choice.prevalence), truth, weights),
    )


def _zones(
    head: HeadSpec,
    config: ZonesConfig,
    cases: Sequence[_Case],
    calibration: TemperatureScaling,
    notes: list[str],
) -> DecisionZones | None:
    scores, truth, names = [], [], []
    for case in cases:
        for logits in case.slides:
            scores.append(float(calibration.apply(logits)[-1]))
            truth.append(bool(case.truth[-1]))
            names.append(case.case_id)
    try:
        zones, told = fit_zones(config, CaseScores.of(scores, truth, names))
    except UsageError as error:
        raise UsageError(
            f"head {head.name}: {error}. With --keep-cut-offs slides are called as before"
        ) from error
    notes.extend(f"{head.name}: {one}" for one in told)
    return zones


def _stated_by(zones: DecisionZones | None) -> ZonesConfig | None:
    """What the bundle's own ``zones`` state."""
    if zones is None:
        return None
    stated: dict[str, Any] = {}
    for _, cut_off in cut_offs(zones):
        stated[cut_off.measure] = cut_off.at_least
        if cut_off.prevalence is not None:
            stated["prevalence"] = cut_off.prevalence
        if cut_off.confidence is None:
            stated["method"] = "conformal"
        else:
            stated["confidence"] = cut_off.confidence
    return ZonesConfig(**stated)


def _moved(probability: float, fitted: LogOddsMap) -> float:
    """What a slide is given now that was given ``probability`` before."""
    log_odds = np.log(probability) - np.log1p(-probability)
    return float(fitted.probabilities(np.array([log_odds]))[0])


def _moved_zones(zones: DecisionZones | None, fitted: LogOddsMap) -> DecisionZones | None:
    if zones is None:
        return None
    low, high = (
        None if one is None else replace(one, value=_moved(one.value, fitted))
        for one in (zones.rule_out, zones.rule_in)
    )
    return DecisionZones(rule_out=low, rule_in=high)


def _errors(
    probabilities: np.ndarray[Any, Any],
    truth: np.ndarray[Any, Any],
    weights: np.ndarray[Any, Any],
) -> dict[str, float]:
    return {
        "calibration_error": calibration_error(probabilities, truth, weights),
        "brier_score": brier_score(probabilities, truth, weights),
        "log_loss": log_loss(probabilities, truth, weights),
    }


@dataclass(frozen=True)
class _Described:
    case_id: str
    features: Path


class _Reader:
    """Reads features files of the bundle's encoder, what of them its heads see."""

    def __init__(self, bundle: Bundle) -> None:
        self._encoder = bundle.encoder.weights_sha256
        self._policy = bundle.manifest.quality

    def read(self, path: Path) -> FeatureBag:
        bag = read_features(path)
        if bag.encoder_sha256 not in (None, self._encoder):
            raise UsageError(f"{path} is of another encoder; predict its slide again")
        return usable_tiles(bag, self._policy).bag


def _domain(
    slides: Sequence[PredictedSlide], cases: dict[str, str], bundle: Bundle, notes: list[str]
) -> SiteDomain | None:
    """A description of the slides, if all have their features."""
    described = [_Described(cases[one.slide_id], one.folder / FEATURES_FILE) for one in slides]
    lacking = sum(not one.features.is_file() for one in described)
    count = len({one.case_id for one in described})
    if lacking:
        notes.append(
            f"no description of the site's slides: {lacking} of {len(described)} have no features; "
            "predict them with --features for one"
        )
        return None
    if count < LEAST_CASES:
        notes.append(
            f"no description of the site's slides: it takes {LEAST_CASES} cases, not {count}"
        )
        return None
    description = describe_domain(described, _Reader(bundle))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **description.arrays())  # type: ignore[arg-type]
    spec = bundle.manifest.domain
    return SiteDomain(
        alarm=_DEFAULT_ALARM if spec is None else spec.alarm,
        arrays=base64.b64encode(buffer.getvalue()).decode(),
    )
