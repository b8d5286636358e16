"""New series of an archive, predicted one after another, and their results stored."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pathgene_rt.batch import Outcome, attempt
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.dicomweb.archive import Archive, SeriesKey
from pathgene_rt.dicomweb.frames import CACHE_BYTES
from pathgene_rt.dicomweb.slide import SeriesSlide
from pathgene_rt.errors import OutputError, PathGeneError
from pathgene_rt.extraction.earlier import Earlier
from pathgene_rt.extraction.extract import TileProgress
from pathgene_rt.extraction.result_identity import ResultIdentity
from pathgene_rt.files import reason, sha256, write_json
from pathgene_rt.options import PredictOptions
from pathgene_rt.predictor import Predictor
from pathgene_rt.report.report import Report
from pathgene_rt.report.stored import REPORT_FILE, StoredReport, earlier_report
from pathgene_rt.slides.fingerprint import SlideFingerprint
from pathgene_rt.slides.given_slide import GivenSlide
from pathgene_rt.slides.slide import Slide

STORED_FILE = "stored.json"
"""Says that the archive has the results in its folder, and which these were."""

_OF_THE_SLIDE = ("slide_sha256", "slide_time_sha256")


@dataclass(frozen=True, kw_only=True)
class SeriesResult:
    """What became of a series. ``report`` is there where it was predicted in this run; ``stored``
    are the results that the archive took in this run."""

    key: SeriesKey
    folder: Path
    outcome: Outcome
    report: Report | None = None
    stored: int = 0
    error: PathGeneError | None = None


class SeriesWork:
    """Predicts series into ``out``/<series>/ and stores the objects in the archive.

    A series that has a report of this bundle and these options is not predicted again, and what the
    archive took of it is not stored again, also by later runs. ``options`` are those of each slide;
    results are always DICOM, and pixels exact: each frame comes once, so none is left to try other
    ways of decoding on.
    """

    def __init__(
        self,
        predictor: Predictor,
        archive: Archive,
        out: Path,
        options: PredictOptions,
        *,
        store: bool = True,
        limit_bytes: int = CACHE_BYTES,
        token: CancellationToken | None = None,
    ) -> None:
        server = archive.session.server
        stall_s = max(options.io_timeout_s, server.retry_s + 2 * server.timeout_s + 10)
        self._options = replace(options, dicom=True, exact=True, io_timeout_s=min(stall_s, 86_400))
        self._predictor, self._archive, self._out = predictor, archive, out
        self._store, self._limit = store, limit_bytes
        self._token = token or CancellationToken()

    def is_done(self, key: SeriesKey) -> bool:
        """Whether nothing is left to do, as far as can be said without asking the server."""
        folder = self._out / key.series
        try:
            made_from = StoredReport.read(folder).made_from or {}
        except OutputError:
            return False
        # An object of DICOM never changes: the pixels are those of then.
        found = SlideFingerprint(*(str(made_from.get(name)) for name in _OF_THE_SLIDE))
        slide = GivenSlide(
            name=key.series, fingerprint=found, open=_no_slide, expect=lambda *_: None
        )
        whole = self._earlier(folder, key, slide).serves
        return whole and (not self._store or self._is_stored(folder))

    def run(self, key: SeriesKey, progress: TileProgress | None = None) -> SeriesResult:
        """Predict and store one series; what it fails of is the result's ``error``. Raises
        UsageError, BundleError, CancelledError, OutputError of a disk that is full."""
        folder = self._out / key.series
        if self.is_done(key):
            return SeriesResult(key=key, folder=folder, outcome="skipped")
        predicted: list[Report] = []
        ended = attempt(lambda: self._run(key, folder, predicted, progress), key.series)
        report = predicted[0] if predicted else None
        if isinstance(ended, PathGeneError):
            return SeriesResult(
                key=key, folder=folder, outcome="failed", report=report, error=ended
            )
        return SeriesResult(key=key, folder=folder, outcome="done", report=report, stored=ended)

    def _run(
        self,
        key: SeriesKey,
        folder: Path,
        predicted: list[Report],
        progress: TileProgress | None,
    ) -> int:
        slide = SeriesSlide(self._archive, key, limit_bytes=self._limit).given()
        options = replace(self._options, slide_id=key.series)
        if not self._earlier(folder, key, slide).serves:
            predicted.append(
                self._predictor.predict(
                    slide, options, out=folder, token=self._token.child(), progress=progress
                )
            )
        if not self._store or self._is_stored(folder):
            return 0
        objects = objects_in(folder)
        self._archive.store(key.study, objects)
        made = {
            "server": self._archive.session.server.url,
            "report_sha256": sha256(_read(folder / REPORT_FILE)),
            "objects": sorted(objects),
        }
        write_json(folder / STORED_FILE, made)
        return len(objects)

    def _earlier(self, folder: Path, key: SeriesKey, slide: GivenSlide) -> Earlier:
        """Whether the report in ``folder`` is of this bundle, options and site profile."""
        bundle = self._predictor.bundle
        options = replace(self._options, slide_id=key.series)

        def wanted() -> ResultIdentity:
            identity = ResultIdentity.of(slide, options, self._predictor.precision_asked)
            return replace(identity, site_sha256=bundle.site.sha256) if bundle.site else identity

        return earlier_report(folder, bundle.sha256, wanted)

    def _is_stored(self, folder: Path) -> bool:
        """Whether this server took just the results that lie in ``folder``."""
        try:
            document: Any = json.loads((folder / STORED_FILE).read_bytes())
            server, digest = document["server"], document["report_sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        same_server = server == self._archive.session.server.url
        return bool(same_server and digest == sha256(_read(folder / REPORT_FILE)))


def _no_slide() -> Slide:
    raise AssertionError("a slide that is only compared is not opened")


def objects_in(folder: Path) -> dict[str, bytes]:
    """The DICOM files that the report in ``folder`` lists, by their SOP instance UIDs. Raises
    OutputError."""
    import pydicom

    files: dict[str, str] = json.loads(_read(folder / REPORT_FILE))["files"]
    found = {}
    for what, name in files.items():
        if what.startswith("dicom "):
            data = pydicom.dcmread(
                folder / name, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]
            )
            found[str(data.SOPInstanceUID)] = _read(folder / name)
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OutputError(
            f"cannot read {path}: {reason(error)}; predict the slide again"
        ) from error
