"""What is known of a slide in training only: the activity of pathways, from gene expression.

Either a table of scores (rows are samples, columns pathways), or a table of expression (rows are
genes, columns samples) with gene sets in Broad's format GMT: name, description and genes, separated
by tabs. The score of a gene set is the mean of its genes' log2(1 + expression), each gene
standardised first, so that a few highly expressed genes do not speak for the set.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathgene_rt.errors import UsageError
from pathgene_rt.evaluation.labels import listed
from pathgene_rt.files import reason

MIN_GENES_SHARE = 0.5
"""The share of a gene set's genes that the expression table must have."""


@dataclass(frozen=True)
class Privileged:
    """Scores of pathways by sample; a sample is named by its slide or its case.

    ``names`` are the k pathways, ``values`` float64 [samples, columns] with ``rows`` by sample.
    ``weights`` float64 [columns, k] makes scores of columns that are genes; None where columns are
    scores already.
    """

    path: Path
    names: tuple[str, ...]
    rows: Mapping[str, int]
    values: NDArray[np.float64]
    weights: NDArray[np.float64] | None = None

    def get(self, slide_id: str, case_id: str | None = None) -> Tensor | None:
        """float32 [k] of the slide's own sample, else of its case's; None where both are missing.

        Before :meth:`standardised` these are the scores as the table has them, and for gene sets
        the mean log expression.
        """
        row = self.rows.get(slide_id)
        if row is None and case_id is not None:
            row = self.rows.get(case_id)
        return None if row is None else torch.from_numpy(self._scores()[row].astype(np.float32))

    def standardised(self, ids: Iterable[str]) -> Privileged:
        """All scores with the mean 0 and deviation 1 that they have over the samples in ``ids``.

        ``ids`` are the slide and case ids of training; others name no sample and are passed over.
        Genes are standardised over the same samples. What is constant there becomes 0. Raises
        :class:`UsageError` if ``ids`` name fewer than two samples.
        """
        chosen = sorted({self.rows[name] for name in ids if name in self.rows})
        if len(chosen) < 2:
            raise UsageError(
                f"{self.path}: {len(chosen)} of its {len(self.rows)} samples "
                f"({listed(list(self.rows))}) belong to training slides, at least 2 are needed; "
                "name samples by slide_id or case_id"
            )
        scores = _standardised(self.values, chosen)
        if self.weights is not None:
            scores = _standardised(scores @ self.weights, chosen)
        return replace(self, values=scores, weights=None)

    def _scores(self) -> NDArray[np.float64]:
        return self.values if self.weights is None else self.values @ self.weights


def read_privileged(path: Path, gene_sets: Path | None = None) -> Privileged:
    """Read scores of pathways, or with ``gene_sets`` (GMT) expression of genes.

    Tables are CSV, or separated by tabs where the file ends in .tsv or .txt; the first column names
    the rows. Expression is TPM, FPKM or counts, not logarithms. Raises :class:`UsageError` naming
    row and column of a cell that is no finite number, a row or column that occurs twice, and a gene
    set that is empty or has less than half of its genes in the table.
    """
    if gene_sets is None:
        names, samples, values = _read_table(path)
        return Privileged(path, names, _numbered(samples), values)
    sets = read_gene_sets(gene_sets)
    wanted = {gene for genes in sets.values() for gene in genes}
    samples, genes, expression = _read_table(path, wanted)
    if (expression < 0).any():
        row, column = np.argwhere(expression < 0)[0]
        raise UsageError(
            f"{path}: the expression of {genes[row]} in {samples[column]} is below 0; give TPM, "
            "FPKM or counts, or scores of pathways without gene sets"
        )
    weights = _set_weights(sets, genes, path, gene_sets)
    return Privileged(path, tuple(sets), _numbered(samples), np.log2(1 + expression.T), weights)


def read_gene_sets(path: Path) -> dict[str, tuple[str, ...]]:
    """The gene sets of a GMT file in its order. Raises :class:`UsageError` if there is none, one
    is empty, or two share a name."""
    sets: dict[str, tuple[str, ...]] = {}
    with _text(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            name, _, *cells = [*(cell.strip() for cell in line.split("\t")), ""]
            genes = tuple(dict.fromkeys(cell for cell in cells if cell))
            if not name or not genes:
                raise UsageError(
                    f"{path} line {number}: the gene set {name!r} is empty; a line is name, "
                    "description and genes, separated by tabs"
                )
            if name in sets:
                raise UsageError(f"{path} line {number}: the gene set {name} occurs twice")
            sets[name] = genes
    if not sets:
        raise UsageError(f"{path} holds no gene set; give a GMT file")
    return sets


def _set_weights(
    sets: Mapping[str, tuple[str, ...]], genes: tuple[str, ...], path: Path, gene_sets: Path
) -> NDArray[np.float64]:
    """float64 [genes, sets]: each column takes the mean of the set's genes that the table has."""
    rows = _numbered(genes)
    weights = np.zeros((len(genes), len(sets)))
    for column, (name, members) in enumerate(sets.items()):
        found = [rows[gene] for gene in members if gene in rows]
        if len(found) < MIN_GENES_SHARE * len(members):
            absent = [gene for gene in members if gene not in rows]
            raise UsageError(
                f"{path} has {len(found)} of the {len(members)} genes of {name} in {gene_sets} "
                f"(not {listed(absent)}); name genes alike, or remove the set"
            )
        weights[found, column] = 1 / len(found)
    return weights


def _read_table(
    path: Path, rows: Collection[str] | None = None
) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.float64]]:
    """(columns, rows, values float64 [rows, columns]); of ``rows`` only if they are given."""
    delimiter = "\t" if path.suffix.casefold() in (".tsv", ".txt") else ","
    names: list[str] = []
    values: list[list[float]] = []
    with _text(path) as lines:
        reader = csv.reader(lines, delimiter=delimiter)
        columns = tuple(cell.strip() for cell in next(reader, [])[1:])
        for cells in reader:
            name = cells[0].strip() if cells else ""
            if not any(cells) or (rows is not None and name not in rows):
                continue
            if len(cells) != len(columns) + 1:
                raise UsageError(
                    f"{path} line {reader.line_num}: has {len(cells)} cells, the first line "
                    f"{len(columns) + 1}; give each row one value a column"
                )
            names.append(name)
            values.append(
                [
                    _number(cell, path, name, column)
                    for cell, column in zip(cells[1:], columns, strict=True)
                ]
            )
    if not names or not columns:
        wanted = "" if rows is None else " of a gene in the gene sets"
        raise UsageError(f"{path} has no {'row' + wanted if columns else 'column of values'}")
    for kind, entries in (("column", columns), ("row", names)):
        seen: set[str] = set()
        for entry in entries:
            if not entry or entry in seen:
                fault = f"{entry} occurs twice" if entry else "without a name"
                raise UsageError(f"{path}: a {kind} {fault}; keep one, with a name")
            seen.add(entry)
    return columns, tuple(names), np.array(values, dtype=np.float64)


def _number(cell: str, path: Path, row: str, column: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(
            f"{path}: row {row}, column {column} holds {cell.strip()!r}, which is no finite "
            "number; fill it in or leave the sample out"
        )
    return value


@contextmanager
def _text(path: Path) -> Iterator[Any]:
    """The open file; what is wrong with it as a whole becomes UsageError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise UsageError(f"cannot read {path}: {reason(error)}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is no table in UTF-8: {error}") from error


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _standardised(values: NDArray[np.float64], rows: list[int]) -> NDArray[np.float64]:
    """``values`` [samples, columns] less the mean, over the deviation, of ``rows``; constant
    columns become 0."""
    mean, deviation = values[rows].mean(axis=0), values[rows].std(axis=0)
    varies = deviation > 1e-12 * (1 + np.abs(mean))
    scaled = (values - mean) / np.where(varies, deviation, 1)
    standard: NDArray[np.float64] = np.where(varies, scaled, 0.0)
    return standard
