"""``report.pdf`` as an Encapsulated PDF (PS3.3, A.45.1)."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pathgene_rt.report.dicom.identity import Author, finished, object_identity, use_line
from pathgene_rt.report.dicom.source import MAY_BE_EMPTY, DicomSource

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

_OF_STUDY = ("StudyInstanceUID", "SpecificCharacterSet", *MAY_BE_EMPTY)


def pdf_object(author: Author, pdf: bytes, source: DicomSource) -> FileDataset:
    """``pdf``, the page of a report, in the study of ``source``."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import UID, EncapsulatedPDFStorage, ExplicitVRLittleEndian, generate_uid

    identity = object_identity(author, "document")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    meta.MediaStorageSOPInstanceUID = UID(identity["sop_instance_uid"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = generate_uid(entropy_srcs=["pathgene-rt"])
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    for name in _OF_STUDY:
        if name in source.dataset:
            made[name] = source.dataset[name]
    made.SOPClassUID, made.SOPInstanceUID = EncapsulatedPDFStorage, identity["sop_instance_uid"]
    made.Modality, made.SeriesInstanceUID = "DOC", identity["series_instance_uid"]
    made.SeriesNumber, made.InstanceNumber = identity["series_number"], 1
    made.SeriesDescription = identity["series_description"]
    made.Manufacturer = identity["manufacturer"]
    made.ManufacturerModelName = identity["manufacturer_model_name"]
    made.SoftwareVersions = identity["software_versions"]
    made.DeviceSerialNumber = identity["device_serial_number"]
    made.ConversionType = "WSD"
    now = datetime.now()
    made.ContentDate, made.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.InstanceCreationDate, made.InstanceCreationTime = made.ContentDate, made.ContentTime
    made.AcquisitionDateTime = ""
    made.BurnedInAnnotation = "YES"
    made.RecognizableVisualFeatures = "NO"
    made.DocumentTitle = use_line(author)
    made.ConceptNameCodeSequence = []
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    made.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    made.EncapsulatedDocumentLength = len(pdf)
    if source.has_image:
        image = Dataset()
        image.ReferencedSOPClassUID = source.dataset.SOPClassUID
        image.ReferencedSOPInstanceUID = source.dataset.SOPInstanceUID
        made.SourceInstanceSequence = [image]
    return finished(made)
