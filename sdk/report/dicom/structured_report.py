"""The answers as a Comprehensive 3D SR by TID 1500: one measurement group for each head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pathgene_rt.heads.prediction import Prediction
from pathgene_rt.report.dicom import codes as ours
from pathgene_rt.report.dicom.identity import (
    MAKER,
    Author,
    algorithm,
    device_uid,
    finished,
    new_uid,
    object_identity,
)
from pathgene_rt.report.report import Report

if TYPE_CHECKING:
    from highdicom.sr import (
        CodedConcept,
        Comprehensive3DSR,
        Measurement,
        MeasurementsAndQualitativeEvaluations,
        ObservationContext,
        QualitativeEvaluation,
        TextContentItem,
    )
    from pydicom.dataset import Dataset


class Pictured(Protocol):
    """Whose slide it is and which picture of it is meant: ``dataset`` has the attributes of a
    :class:`~pathgene_rt.report.dicom.source.DicomSource`, or of one read back."""

    @property
    def dataset(self) -> Dataset: ...

    @property
    def has_image(self) -> bool: ...


def structured_report(report: Report, source: Pictured) -> Comprehensive3DSR:
    """The report of a slide, about ``source``. A call is a finding of a program, not verified by
    anybody: it is preliminary (PRELIMINARY, UNVERIFIED).
    """
    author = Author.of(report)
    noted = () if report.partial is None else ((ours.WARNING, report.partial.describe()),)
    return answers_document(
        author,
        [answer_group(author, one, [source], texts=noted) for one in report.predictions],
        [source],
        warnings=report.warnings,
        is_complete=report.partial is None,
    )


def answers_document(
    author: Author,
    groups: Sequence[MeasurementsAndQualitativeEvaluations],
    sources: Sequence[Pictured],
    warnings: Sequence[str],
    *,
    is_complete: bool = True,
) -> Comprehensive3DSR:
    """``groups`` as a document about ``sources``, in the study of the first."""
    from highdicom.sr import Comprehensive3DSR, MeasurementReport
    from pydicom.sr.codedict import codes

    pictures = [one.dataset for one in sources if one.has_image]
    content = MeasurementReport(
        observation_context=_context(author, sources),
        procedure_reported=codes.SCT.LightMicroscopy,
        imaging_measurements=groups,
        referenced_images=pictures or None,
    )
    content[0].ContentSequence.append(_text(ours.INTENDED_USE, author.intended_use))
    content[0].ContentSequence.extend(_text(ours.WARNING, told) for told in warnings)
    document = Comprehensive3DSR(
        evidence=pictures or [sources[0].dataset],
        content=content,
        is_complete=is_complete,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        **object_identity(author, "report"),
    )
    document.PreliminaryFlag = "PRELIMINARY"
    if not pictures:
        # highdicom takes the dataset that it is made of for evidence.
        for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
            document.pop(name, None)
    return finished(document)


def _context(author: Author, sources: Sequence[Pictured]) -> ObservationContext:
    """Of slides of several specimens the subject is the patient, as where none is stated."""
    from highdicom.sr import (
        DeviceObserverIdentifyingAttributes,
        ObservationContext,
        ObserverContext,
        SubjectContext,
        SubjectContextSpecimen,
    )
    from pydicom.sr.codedict import codes

    specimens = {
        (specimen.SpecimenUID, specimen.SpecimenIdentifier, one.dataset.ContainerIdentifier)
        for one in sources
        for specimen in one.dataset.SpecimenDescriptionSequence[:1]
    }
    subject = None
    if len(specimens) == 1:
        ((uid, identifier, container),) = specimens
        subject = SubjectContext(
            subject_class=codes.DCM.Specimen,
            subject_class_specific_context=SubjectContextSpecimen(
                uid=uid, identifier=identifier, container_identifier=container
            ),
        )
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                uid=device_uid(author),
                name=MAKER,
                manufacturer_name=MAKER,
                model_name=author.bundle.name,
                serial_number=author.bundle.sha256,
            ),
        ),
        subject_context=subject,
    )


def answer_group(
    author: Author,
    prediction: Prediction,
    sources: Sequence[Pictured],
    *,
    method: tuple[str, str] = ours.METHOD,
    texts: Sequence[tuple[tuple[str, str], str]] = (),
) -> MeasurementsAndQualitativeEvaluations:
    """A head's answer, which ``method`` gave for the pictures ``sources``. ``texts`` are more to
    say, each with its concept."""
    from highdicom.sr import (
        MeasurementsAndQualitativeEvaluations,
        SourceImageForMeasurementGroup,
        TrackingIdentifier,
    )

    pictures = [
        SourceImageForMeasurementGroup(one.dataset.SOPClassUID, one.dataset.SOPInstanceUID)
        for one in sources
        if one.has_image
    ]
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=new_uid(), identifier=prediction.head),
        finding_type=ours.private(ours.FINDINGS[prediction.kind]),
        method=ours.private(method),
        algorithm_id=algorithm(author, prediction.head),
        qualitative_evaluations=_evaluations(prediction),
        measurements=_measurements(prediction) or None,
        source_images=pictures or None,
    )
    decision = prediction.decision
    items = group[0].ContentSequence
    items.extend(_text(ours.REASON, one.text) for one in (decision.reasons if decision else ()))
    items.extend(_text(name, text) for name, text in texts)
    return group


def _evaluations(prediction: Prediction) -> list[QualitativeEvaluation]:
    from highdicom.sr import QualitativeEvaluation

    decision = prediction.decision
    if decision is not None:
        calls = [ours.call_concept(decision.call)]
    else:
        calls = [
            ours.class_concept(place, prediction.classes[place]) for place in prediction.called
        ] or [ours.private(("NO_CLASS", "No class reaches its threshold"))]
    found = [QualitativeEvaluation(ours.private(ours.CALL), call) for call in calls]
    if prediction.gene is not None:
        gene = ours.gene_concept(prediction.gene)
        found.append(QualitativeEvaluation(ours.gene_studied(), gene))
    place = _stated(prediction)
    if not prediction.withheld and place is not None:
        concept = ours.class_concept(place, prediction.classes[place])
        found.append(QualitativeEvaluation(ours.private(ours.PROBABILITY_OF), concept))
    return found


def _stated(prediction: Prediction) -> int | None:
    """The class whose probability the threshold is on, where there is one such class."""
    return len(prediction.classes) - 1 if len(prediction.classes) <= 2 else None


def _measurements(prediction: Prediction) -> list[Measurement]:
    """Probabilities and cut-offs; none of an answer that is withheld, so that nobody takes it."""
    from highdicom.sr import Measurement
    from pydicom.sr.codedict import codes

    if prediction.withheld:
        return []

    def number(name: CodedConcept, value: float) -> Measurement:
        return Measurement(name=name, value=round(float(value), 6), unit=codes.UCUM.NoUnits)

    place = _stated(prediction)
    if place is not None:
        found = [number(ours.private(ours.PROBABILITY), prediction.probabilities[place])]
        if prediction.interval is not None:
            low, high = prediction.interval[place]
            found.append(number(ours.private(ours.INTERVAL_LOW), low))
            found.append(number(ours.private(ours.INTERVAL_HIGH), high))
    else:
        found = [
            number(ours.private((f"PROBABILITY_{place}", f"Probability of {name}")), value)
            for place, (name, value) in enumerate(
                zip(prediction.classes, prediction.probabilities, strict=True)
            )
        ]
    zones = prediction.zones
    if zones is None:
        if prediction.threshold is not None:
            found.append(number(ours.private(ours.THRESHOLD), prediction.threshold))
        return found
    if zones.rule_out is not None:
        found.append(number(ours.private(ours.RULE_OUT), zones.rule_out.value))
    if zones.rule_in is not None:
        found.append(number(ours.private(ours.RULE_IN), zones.rule_in.value))
    return found


def _text(name: tuple[str, str], text: str) -> TextContentItem:
    from highdicom.sr import RelationshipTypeValues, TextContentItem

    return TextContentItem(
        name=ours.private(name), value=text, relationship_type=RelationshipTypeValues.CONTAINS
    )
