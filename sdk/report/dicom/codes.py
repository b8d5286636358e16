"""The concepts that results are written in: docs/dicom.md has the table with their sources.

A code of a standard is used where one means just that. Codes of what is assayed (such as LOINC's of
mutations found) do not: nothing was assayed here. What no standard has a code for is in our private
scheme, which each object declares as such.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.bundle.spec import TaskKind

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept
    from pydicom.dataset import Dataset

PRIVATE, PRIVATE_NAME = "99PGRT", "pathgene-rt, private codes"
HGNC, HGNC_UID = "HGNC", "2.16.840.1.113883.6.281"

HGNC_IDS = {
    "ALK": 427,
    "BRAF": 1097,
    "BRCA2": 1101,
    "EGFR": 3236,
    "ERBB2": 3430,
    "KEAP1": 23177,
    "KRAS": 6407,
    "MET": 7029,
    "NTRK1": 8031,
    "PIK3CA": 8975,
    "PTEN": 9588,
    "RET": 9967,
    "ROS1": 10261,
    "STK11": 11389,
    "TP53": 11998,
}
"""Ids of genes by their approved symbol (HUGO Gene Nomenclature Committee)."""

FINDINGS: dict[TaskKind, tuple[str, str]] = {
    "mutation": ("PREDICTED_MUT", "Mutation status, predicted from histology"),
    "subtype": ("PREDICTED_SUB", "Mutation subtype, predicted from histology"),
    "exon": ("PREDICTED_EXON", "Exon of the mutation, predicted from histology"),
    "tmb": ("PREDICTED_TMB", "Tumour mutational burden, predicted from histology"),
    "other": ("PREDICTED", "Prediction from histology"),
}
"""Private code and meaning by what a head predicts."""

METHOD = ("NOT_ASSAYED", "Computed from the slide's picture; not assayed")
CASE_POOLED = ("CASE_POOLED", "Computed from the tiles of all slides together; not assayed")
CASE_MEAN = ("CASE_MEAN", "Mean of the probabilities of the slides; not assayed")
SLIDE = ("SLIDE", "Slide, as the results call it")
CALL = ("CALL", "Call of the model")
PROBABILITY_OF = ("PROBABILITY_OF", "Class that the probability is of")
PROBABILITY = ("PROBABILITY", "Probability, calibrated")
THRESHOLD = ("THRESHOLD", "Probability from which on the class is called")
RULE_OUT = ("RULE_OUT", "Cut-off of probability below which it is ruled out")
RULE_IN = ("RULE_IN", "Cut-off of probability from which on it is ruled in")
INTERVAL_LOW = ("INTERVAL_LOW", "Lower end of the probability's 95 % interval")
INTERVAL_HIGH = ("INTERVAL_HIGH", "Upper end of the probability's 95 % interval")
ATTENTION = ("ATTENTION", "Attention weight of a tile within the slide")
ATTENTION_RANK = ("ATTENTION_RANK", "Percentile rank of attention within the slide")
INTENDED_USE = ("INTENDED_USE", "Intended use")
REASON = ("REASON", "Reason of the call")
WARNING = ("WARNING", "Warning of the report")
WITHHELD = ("WITHHELD", "Withheld: no answer is given")
INDETERMINATE = "82334004"

CALLS = {
    "positive": ("10828004", "Positive"),
    "negative": ("260385009", "Negative"),
    "indeterminate": (INDETERMINATE, "Indeterminate"),
}
"""SNOMED CT's qualifiers (CIDs 250 and 4220 of PS3.16)."""


def one_line(text: str, most: int = 64) -> str:
    """``text`` as one value of a DICOM line: without what divides values, no longer than ``most``
    characters (LO)."""
    line = " ".join(text.replace("\\", "/").split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def private(code: tuple[str, str]) -> CodedConcept:
    """A concept of our own scheme, of ``code`` and meaning."""
    from highdicom.sr import CodedConcept

    return CodedConcept(one_line(code[0], 16), PRIVATE, one_line(code[1]))


def gene_concept(symbol: str) -> CodedConcept:
    """The gene by its HGNC id; one that is not in the table in our scheme, by its symbol."""
    from highdicom.sr import CodedConcept

    number = HGNC_IDS.get(symbol)
    if number is None:
        return private((f"GENE_{symbol}", f"Gene {symbol}"))
    return CodedConcept(f"HGNC:{number}", HGNC, symbol)


def call_concept(call: str) -> CodedConcept:
    """What a decision says: ``call`` is positive, negative, indeterminate or withheld."""
    from highdicom.sr import CodedConcept

    if call not in CALLS:
        return private(WITHHELD)
    value, meaning = CALLS[call]
    return CodedConcept(value, "SCT", meaning)


def class_concept(place: int, name: str) -> CodedConcept:
    """The head's class ``name``, by its ``place``: bundles name their classes as they like."""
    return private((f"CLASS_{place}", name.strip() or f"class {place}"))


def gene_studied() -> CodedConcept:
    """LOINC's name of a result's gene; it says nothing of how it was studied."""
    from highdicom.sr import CodedConcept

    return CodedConcept("48018-6", "LN", "Gene studied [ID]")


def declare_schemes(dataset: Dataset) -> None:
    """Say in ``dataset`` what the schemes are that PS3.16 does not list."""
    from pydicom.dataset import Dataset

    private_scheme, genes = Dataset(), Dataset()
    private_scheme.CodingSchemeDesignator = PRIVATE
    private_scheme.CodingSchemeName = PRIVATE_NAME
    private_scheme.CodingSchemeResponsibleOrganization = "The pathgene-rt authors"
    genes.CodingSchemeDesignator = HGNC
    genes.CodingSchemeUID = HGNC_UID
    genes.CodingSchemeName = "HUGO Gene Nomenclature Committee, gene ids"
    genes.CodingSchemeResponsibleOrganization = "HUGO Gene Nomenclature Committee"
    dataset.CodingSchemeIdentificationSequence = [private_scheme, genes]
