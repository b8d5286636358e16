"""The answers as a Comprehensive 3D SR by TID 1500: one measurement group for each head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.heads.prediction import Prediction
from pathgene_rt.report.dicom import codes as ours
from pathgene_rt.report.dicom.identity import (
    MAKER,
    algorithm,
    device_uid,
    finished,
    new_uid,
    object_identity,
)
from pathgene_rt.report.dicom.source import DicomSource
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


def structured_report(report: Report, source: DicomSource) -> Comprehensive3DSR:
    """The report of a slide, about ``source``. A call is a finding of a program, not verified by
    anybody: it is preliminary (PRELIMINARY, UNVERIFIED).
    """
    from highdicom.sr import Comprehensive3DSR, MeasurementReport
    from pydicom.sr.codedict import codes

    content = MeasurementReport(
        observation_context=_context(report, source),
        procedure_reported=codes.SCT.LightMicroscopy,
        imaging_measurements=[_group(report, one, source) for one in report.predictions],
        referenced_images=[source.dataset] if source.has_image else None,
    )
    content[0].ContentSequence.append(_text(ours.INTENDED_USE, report.intended_use))
    content[0].ContentSequence.extend(_text(ours.WARNING, told) for told in report.warnings)
    identity = object_identity(report, "report")
    document = Comprehensive3DSR(
        evidence=[source.dataset],
        content=content,
        is_complete=report.partial is None,
        record_evidence=source.has_image,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        **identity,
    )
    document.PreliminaryFlag = "PRELIMINARY"
    if not source.has_image:
        # highdicom takes the dataset that it is made of for evidence.
        for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
            document.pop(name, None)
    return finished(document)


def _context(report: Report, source: DicomSource) -> ObservationContext:
    from highdicom.sr import (
        DeviceObserverIdentifyingAttributes,
        ObservationContext,
        ObserverContext,
        SubjectContext,
        SubjectContextSpecimen,
    )
    from pydicom.sr.codedict import codes

    bundle = report.provenance.bundle
    specimen = source.dataset.SpecimenDescriptionSequence[0]
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                uid=device_uid(report),
                name=MAKER,
                manufacturer_name=MAKER,
                model_name=bundle.name,
                serial_number=bundle.sha256,
            ),
        ),
        subject_context=SubjectContext(
            subject_class=codes.DCM.Specimen,
            subject_class_specific_context=SubjectContextSpecimen(
                uid=specimen.SpecimenUID,
                identifier=specimen.SpecimenIdentifier,
                container_identifier=source.dataset.ContainerIdentifier,
            ),
        ),
    )


def _group(
    report: Report, prediction: Prediction, source: DicomSource
) -> MeasurementsAndQualitativeEvaluations:
    from highdicom.sr import (
        MeasurementsAndQualitativeEvaluations,
        SourceImageForMeasurementGroup,
        TrackingIdentifier,
    )

    image = None
    if source.has_image:
        image = [SourceImageForMeasurementGroup.from_source_image(source.dataset)]
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=new_uid(), identifier=prediction.head),
        finding_type=ours.private(ours.FINDINGS[prediction.kind]),
        method=ours.private(ours.METHOD),
        algorithm_id=algorithm(report, prediction.head),
        qualitative_evaluations=_evaluations(prediction),
        measurements=_measurements(prediction) or None,
        source_images=image,
    )
    decision = prediction.decision
    items = group[0].ContentSequence
    items.extend(_text(ours.REASON, one.text) for one in (decision.reasons if decision else ()))
    if report.partial is not None:
        items.append(_text(ours.WARNING, report.partial.describe()))
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
