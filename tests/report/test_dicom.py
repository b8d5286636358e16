"""DICOM objects of a report: what they say, whose they are, and where they lie."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="the extra dicom is not installed")

import pydicom
from highdicom.ann import MicroscopyBulkSimpleAnnotations
from highdicom.pm import ParametricMap
from highdicom.spatial import PixelToReferenceTransformer
from highdicom.sr import Comprehensive3DSR

from pathgene_rt.bundle.zones import CutOff, DecisionZones
from pathgene_rt.errors import MissingExtraError, SlideError, UsageError
from pathgene_rt.geometry import SlideInfo
from pathgene_rt.heads.decision import Reason
from pathgene_rt.options import PredictOptions
from pathgene_rt.pseudonyms import Pseudonyms
from pathgene_rt.report.dicom.context import read_context
from pathgene_rt.report.dicom.requirements import require_dicom
from pathgene_rt.report.dicom.source import find_source
from tests.report.test_report import BAG, BUNDLE, INFO, TILES, XY, make_report, predicted
from tests.support.dicom_context import CONTEXT, write_context
from tests.support.dicom_reports import (
    WHOLE_OUTPUT,
    level_zero_px,
    source_in,
    written_objects,
)
from tests.support.dicom_slides import DicomLayout, identify, write_dicom


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The objects of two heads."""
    path = tmp_path_factory.mktemp("objects")
    written_objects(path)
    return path


def groups(path: Path) -> list:
    document = Comprehensive3DSR.from_dataset(pydicom.dcmread(path))
    return document.content.get_image_measurement_groups()


def evaluations(group: object) -> dict[str, str]:
    found = {one.name.meaning: one.value.meaning for one in group.get_qualitative_evaluations()}
    assert found.pop("Algorithm Family") == "Artificial Intelligence"
    return found


def numbers(group: object) -> dict[str, float]:
    return {one.name.meaning: float(one.value) for one in group.get_measurements()}


def texts(path: Path) -> str:
    return pydicom.dcmread(path).to_json()


def test_one_file_of_each_kind_is_listed_and_an_older_run_leaves_none(tmp_path: Path) -> None:
    report = written_objects(tmp_path)
    assert {what: name for what, name in report.files.items() if what.startswith("dicom")} == {
        "dicom report": "report.dcm",
        "dicom top tiles": "top_tiles.dcm",
        "dicom attention egfr": "attention_egfr.dcm",
        "dicom attention tp53": "attention_tp53.dcm",
    }
    written_objects(tmp_path, options=replace(WHOLE_OUTPUT, dicom=False))
    assert list(tmp_path.glob("*.dcm")) == []


def test_the_report_has_each_heads_answer_and_what_gave_it(folder: Path) -> None:
    egfr, _ = groups(folder / "report.dcm")
    assert evaluations(egfr) == {
        "Call of the model": "mutated",
        "Gene studied [ID]": "EGFR",
        "Class that the probability is of": "mutated",
    }
    assert numbers(egfr) == {
        "Probability, calibrated": 0.87,
        "Probability from which on the class is called": 0.5,
    }
    assert egfr.finding_type.scheme_designator == "99PGRT"
    assert "not assayed" in egfr.method.meaning
    said = texts(folder / "report.dcm")
    assert "lung: egfr" in said
    assert f"bundle sha256: {BUNDLE}" in said


def test_genes_have_their_hgnc_id_or_say_that_they_have_none(tmp_path: Path) -> None:
    report = make_report()
    unknown = replace(report.predictions[1], gene="NEWGENE1")
    written_objects(tmp_path, replace(report, predictions=(report.predictions[0], unknown)))
    found = [
        one.value
        for group in groups(tmp_path / "report.dcm")
        for one in group.get_qualitative_evaluations()
        if one.name.value == "48018-6"
    ]
    assert [(one.value, one.scheme_designator) for one in found] == [
        ("HGNC:3236", "HGNC"),
        ("GENE_NEWGENE1", "99PGRT"),
    ]


ZONES = DecisionZones(
    rule_out=CutOff(
        value=0.2, measure="sensitivity", at_least=0.9, confidence=0.95, cases=200, errors=3
    ),
    rule_in=CutOff(
        value=0.9, measure="specificity", at_least=0.9, confidence=0.95, cases=200, errors=3
    ),
)


def test_a_decision_comes_with_its_cut_offs_and_its_reason(tmp_path: Path) -> None:
    between = replace(predicted("egfr"), zones=ZONES)
    written_objects(tmp_path, make_report("egfr", predictions=(between,)))
    (group,) = groups(tmp_path / "report.dcm")
    assert evaluations(group)["Call of the model"] == "Indeterminate"
    assert numbers(group) == {
        "Probability, calibrated": 0.87,
        "Cut-off of probability below which it is ruled out": 0.2,
        "Cut-off of probability from which on it is ruled in": 0.9,
    }
    assert "test with the reference method (PCR or NGS)" in texts(tmp_path / "report.dcm")


def test_of_an_answer_that_is_withheld_no_probability_is_there(tmp_path: Path) -> None:
    reason = Reason(code="too_few_tiles", figures={"tiles": 6, "least": 100})
    withheld = replace(predicted("egfr"), withheld=(reason,))
    written_objects(tmp_path, make_report("egfr", predictions=(withheld,)))
    (group,) = groups(tmp_path / "report.dcm")
    assert evaluations(group)["Call of the model"].startswith("Withheld")
    assert numbers(group) == {}
    said = texts(tmp_path / "report.dcm")
    assert "0.87" not in said
    assert "6 tiles are usable" in said


def test_of_several_classes_each_has_its_probability(tmp_path: Path) -> None:
    three = replace(predicted("exon", ("18", "19", "21")), threshold=None, kind="exon")
    written_objects(tmp_path, make_report("exon", predictions=(three,)))
    (group,) = groups(tmp_path / "report.dcm")
    assert numbers(group) == {
        "Probability of 18": 0.13,
        "Probability of 19": 0.87,
        "Probability of 21": 0.0,
    }


def test_a_bundle_without_heads_has_nothing_to_report(tmp_path: Path) -> None:
    report = written_objects(tmp_path, make_report(predictions=(), attention={}))
    assert list(tmp_path.glob("*.dcm")) == []
    assert "the bundle has no head" in report.warnings[0]


@pytest.mark.parametrize("name", ["report.dcm", "top_tiles.dcm", "attention_egfr.dcm"])
def test_each_is_of_the_patients_study_and_says_research_use(folder: Path, name: str) -> None:
    data = pydicom.dcmread(folder / name)
    assert data.PatientID == "MRN-1"
    assert str(data.PatientName) == "Muster^Änne"
    assert data.StudyInstanceUID == CONTEXT["study"]["instance_uid"]
    assert data.AccessionNumber == "ACC-1"
    assert data.SeriesInstanceUID != CONTEXT["image"]["series_instance_uid"]
    assert data.SeriesDescription == "Research use only. Not a diagnosis."
    assert data.DeviceSerialNumber == BUNDLE


def test_the_annotations_lie_on_the_most_attended_tiles(folder: Path, tmp_path: Path) -> None:
    dataset = source_in(tmp_path).dataset
    made = MicroscopyBulkSimpleAnnotations.from_dataset(pydicom.dcmread(folder / "top_tiles.dcm"))
    assert made.FrameOfReferenceUID == dataset.FrameOfReferenceUID
    assert [group.label for group in made.get_annotation_groups()] == [
        "egfr: most attended tiles",
        "tp53: most attended tiles",
    ]
    group = made.get_annotation_groups()[0]
    corners = group.get_graphic_data(coordinate_type="3D")
    order = np.arange(TILES)[::-1]  # attention rises from tile to tile
    for corner, row in zip(corners, order, strict=True):
        left, top = XY[row]
        right, bottom = min(left + 512, 2000), min(top + 512, 1500)
        expected = [[left, top], [right, top], [right, bottom], [left, bottom]]
        np.testing.assert_allclose(level_zero_px(dataset, corner), expected, atol=0.05)
    names, values, _ = group.get_measurements()
    assert [name.meaning for name in names] == [
        "Attention weight of a tile within the slide",
        "Percentile rank of attention within the slide",
    ]
    weights = np.linspace(1, 2, TILES, dtype=np.float32)[order] / (1.5 * TILES)
    np.testing.assert_allclose(values[:, 0], weights, rtol=1e-6)
    assert (np.diff(values[:, 1]) < 0).all()


def test_each_pixel_of_a_map_lies_on_its_tile(folder: Path, tmp_path: Path) -> None:
    dataset = source_in(tmp_path).dataset
    made = ParametricMap.from_dataset(pydicom.dcmread(folder / "attention_egfr.dcm"))
    assert made.FrameOfReferenceUID == dataset.FrameOfReferenceUID
    assert made.ContentQualification == "RESEARCH"
    values = made.get_total_pixel_matrix(apply_real_world_transform=True)
    assert values.shape == (3, 4)  # of 512 px, over all of 2000 x 1500
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    origin = made.TotalPixelMatrixOriginSequence[0]
    transform = PixelToReferenceTransformer(
        image_position=(
            float(origin.XOffsetInSlideCoordinateSystem),
            float(origin.YOffsetInSlideCoordinateSystem),
            0.0,
        ),
        image_orientation=[float(value) for value in made.ImageOrientationSlide],
        pixel_spacing=[float(value) for value in measures.PixelSpacing],
    )
    places = level_zero_px(dataset, transform(XY // 512))
    np.testing.assert_allclose(places, XY + 256.0, atol=0.05)
    column, row = (XY // 512).T
    expected = (np.arange(TILES) + 0.5) / TILES * 100
    np.testing.assert_allclose(values[row, column], expected, rtol=1e-5)
    assert (np.delete(values.ravel(), row * 4 + column) == 0).all()


def test_a_map_of_more_than_one_frame_is_read_back_whole(tmp_path: Path) -> None:
    from pathgene_rt.report.contents import shown_of
    from pathgene_rt.report.dicom.attention_map import attention_map, rank_matrix
    from pathgene_rt.report.dicom.identity import Author

    count = 900
    xy = np.stack([np.arange(count) % 300 * 4, np.arange(count) // 300 * 4], axis=1)
    bag = replace(
        BAG, features=np.ones((count, 4), np.float32), xy=xy.astype(np.int32), span_px=4.0
    )
    weights = np.random.default_rng(0).random((count, 1), dtype=np.float32)
    report = make_report("egfr", attention={"egfr": weights / weights.sum()})
    (shown,) = shown_of(report)
    made = attention_map(Author.of(report), bag, shown, source_in(tmp_path), 1)
    assert made.NumberOfFrames > 1
    expected = rank_matrix(bag, shown.ranks, INFO.size_px)
    np.testing.assert_array_equal(made.get_total_pixel_matrix(), expected)


def test_tiles_that_lie_on_no_grid_make_annotations_but_no_map(tmp_path: Path) -> None:
    from pathgene_rt.report.writer import write_report

    moved = XY + np.array([[0, 0]] * 3 + [[130, 77]] * 3, np.int32)
    report = write_report(
        make_report(),
        tmp_path,
        None,
        INFO,
        replace(BAG, xy=moved),
        WHOLE_OUTPUT,
        dicom=source_in(tmp_path),
    )
    assert sorted(path.name for path in tmp_path.glob("*.dcm")) == ["report.dcm", "top_tiles.dcm"]
    assert "no DICOM maps of attention: the tiles of --coords lie on no one grid" in report.warnings


def test_without_an_image_only_the_report_is_written_and_it_refers_to_none(tmp_path: Path) -> None:
    report = written_objects(tmp_path, source=source_in(tmp_path, image=None))
    assert sorted(path.name for path in tmp_path.glob("*.dcm")) == ["report.dcm"]
    assert any("names no image" in told for told in report.warnings)
    data = pydicom.dcmread(tmp_path / "report.dcm")
    assert "CurrentRequestedProcedureEvidenceSequence" not in data
    assert "PertinentOtherEvidenceSequence" not in data
    assert "00081155" not in data.to_json()  # Referenced SOP Instance UID
    assert len(groups(tmp_path / "report.dcm")) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patient__id": None}, "patient.id is missing"),
        ({"study": None, "specimen__uid": None}, "study, specimen.uid are missing"),
        ({"study__instance_uid": "1.2.x"}, "study.instance_uid: String should match pattern"),
        ({"patient__sex": "female"}, "patient.sex: Input should be"),
        ({"patient__birth_date": "1950-01-31"}, "patient.birth_date: String should match"),
        ({"patient__id": " "}, "patient.id: String should match"),
        ({"patient__ward": "3"}, "patient.ward: Unexpected keyword argument"),
        ({"image__orientation": [1, 0]}, "image.orientation"),
        ({"image__pixel_spacing_mm": [0, 1]}, "image.pixel_spacing_mm.0"),
        ({"patient": ["MRN-1"]}, "patient: "),
    ],
)
def test_what_is_wrong_with_a_context_is_named(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_context(write_context(tmp_path, **changes), "slide-1")
    assert said in str(raised.value)
    assert "context.json" in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"text"', "\xff"])
def test_a_context_that_is_no_such_document(tmp_path: Path, text: str) -> None:
    path = tmp_path / "context.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"context\.json: "):
        read_context(path, "slide-1")


def test_a_folder_of_contexts_has_one_for_each_slide(tmp_path: Path) -> None:
    write_context(tmp_path).rename(tmp_path / "slide-1.json")
    assert read_context(tmp_path, "slide-1").patient.id == "MRN-1"
    with pytest.raises(UsageError, match=r"slide-2\.json: No such file"):
        read_context(tmp_path, "slide-2")


def test_a_context_of_another_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"says 0\.5 um/px, and the slide slide-1 has 0\.25"):
        source_in(tmp_path, image__pixel_spacing_mm=[0.0005, 0.0005])


def dicom_slide(folder: Path, **changes: object) -> tuple[Path, SlideInfo]:
    pixels = np.full((256, 384, 3), 200, np.uint8)
    paths = write_dicom(folder, [pixels, pixels[::2, ::2]], DicomLayout(syntax="explicit"))
    identify(paths, **changes)
    return paths[1], SlideInfo("slide", (384, 256), 0.5, (1.0, 2.0), "dicom")


def test_a_dicom_slide_says_itself_whose_it_is(tmp_path: Path) -> None:
    path, info = dicom_slide(tmp_path)
    source = find_source(path, info, PredictOptions(dicom=True))
    data = source.dataset
    assert source.has_image
    assert (data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows) == (384, 256)
    assert (data.PatientID, data.ContainerIdentifier) == ("MRN-1", "BARCODE-1")
    assert source.spacing_mm == (0.0005, 0.0005)
    written_objects(tmp_path, source=replace(source, size_px=INFO.size_px))
    made = pydicom.dcmread(tmp_path / "report.dcm")
    assert str(made.PatientName) == "Muster^Änne"
    assert made.StudyInstanceUID == data.StudyInstanceUID
    assert "PixelData" not in data


def test_names_in_any_language_are_kept_whatever_the_slides_character_set(tmp_path: Path) -> None:
    path, info = dicom_slide(tmp_path)
    for one in tmp_path.glob("*.dcm"):
        data = pydicom.dcmread(one)
        data.SpecimenDescriptionSequence[0].SpecimenShortDescription = "Läsion"
        data.save_as(one)
    source = find_source(path, info, PredictOptions(dicom=True))
    report = make_report("egfr", predictions=(predicted("egfr", ("野生型", "突变")),))
    written_objects(tmp_path, report, source=replace(source, size_px=INFO.size_px))
    (group,) = groups(tmp_path / "report.dcm")
    assert evaluations(group)["Call of the model"] == "突变"
    for name in ("report.dcm", "top_tiles.dcm", "attention_egfr.dcm"):
        made = pydicom.dcmread(tmp_path / name)
        assert str(made.PatientName) == "Muster^Änne"
    (specimen,) = made.SpecimenDescriptionSequence
    assert specimen.SpecimenShortDescription == "Läsion"


def test_what_a_dicom_slide_lacks_is_named(tmp_path: Path) -> None:
    lacking = {"FrameOfReferenceUID": None, "SpecimenDescriptionSequence": None}
    path, info = dicom_slide(tmp_path, **lacking)
    expected = r"the DICOM slide lacks SpecimenDescriptionSequence, FrameOfReferenceUID,"
    with pytest.raises(SlideError, match=expected):
        find_source(path, info, PredictOptions(dicom=True))


def test_what_may_be_empty_need_not_be_there(tmp_path: Path) -> None:
    path, info = dicom_slide(tmp_path, PatientBirthDate=None, StudyID=None, AccessionNumber=None)
    source = find_source(path, info, PredictOptions(dicom=True))
    written_objects(tmp_path, source=replace(source, size_px=INFO.size_px))
    made = pydicom.dcmread(tmp_path / "report.dcm")
    assert not made.PatientBirthDate
    assert not made.AccessionNumber
    assert made.PatientID == "MRN-1"


def test_a_slide_that_is_no_dicom_needs_a_context(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    path.write_bytes(b"II*\0")
    with pytest.raises(SlideError, match=r"is no DICOM slide.*give --dicom-context"):
        find_source(path, INFO, PredictOptions(dicom=True))


def test_options_that_do_not_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, slides = write_context(tmp_path), [Path("a.svs"), Path("b.svs")]
    hidden = Pseudonyms.random()
    for options, said in (
        (PredictOptions(dicom_context=context), "does nothing alone"),
        (PredictOptions(dicom=True, pseudonyms=hidden), "leave out --dicom or --pseudonymize"),
        (PredictOptions(fhir=True, dicom_context=context, pseudonyms=hidden), "leave one out"),
        (PredictOptions(dicom=True, dicom_context=context), "is of one slide, and 2 are given"),
    ):
        with pytest.raises(UsageError, match=said):
            require_dicom(options, slides)
    require_dicom(PredictOptions(dicom=True, dicom_context=tmp_path), slides)
    monkeypatch.setattr("pathgene_rt.report.dicom.requirements.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pathgene-rt\[dicom\]"):
        require_dicom(PredictOptions(dicom=True))
    require_dicom(PredictOptions())


def test_the_codes_table_of_the_documentation_is_the_one_that_is_written() -> None:
    from pathgene_rt.report.dicom.codes import HGNC_IDS

    text = (Path(__file__).parents[2] / "docs" / "dicom.md").read_text(encoding="utf-8")
    for symbol, number in HGNC_IDS.items():
        assert f"{symbol} {number}" in text


def test_nothing_is_imported_where_nothing_is_asked_for() -> None:
    import subprocess

    code = (
        "import sys, pathgene_rt.report.writer; "
        "print([name for name in ('highdicom', 'pydicom') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
