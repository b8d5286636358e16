"""Whether DICOM objects can be written here: known before a slide is read."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pathgene_rt.errors import MissingExtraError, UsageError
from pathgene_rt.options import PredictOptions


def require_dicom(options: PredictOptions, slides: Sequence[Path] = ()) -> None:
    """Raise MissingExtraError, or UsageError where ``options`` for ``slides`` cannot go together.

    Objects are of a patient's study: with pseudonyms they would name whom these are to hide, or
    be of nobody.
    """
    if options.dicom_context is not None and not (options.dicom or options.fhir):
        raise UsageError("--dicom-context does nothing alone; add --dicom or --fhir")
    if options.dicom_context is not None and options.pseudonyms is not None:
        raise UsageError(
            "--dicom-context states whose slide it is, which --pseudonymize hides; leave one out"
        )
    if options.dicom_context is not None and len(slides) > 1 and options.dicom_context.is_file():
        raise UsageError(
            f"--dicom-context {options.dicom_context} is of one slide, and {len(slides)} are given;"
            " give a folder with <slide id>.json for each"
        )
    if not options.dicom:
        return
    if options.pseudonyms is not None:
        raise UsageError(
            "--dicom writes into the patient's study, which names the patient; leave out --dicom or"
            " --pseudonymize"
        )
    if find_spec("highdicom") is None:
        raise MissingExtraError(
            "DICOM objects need highdicom; run pip install 'pathgene-rt[dicom]'"
        )
