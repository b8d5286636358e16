"""Pathway scores and gene expression that only training sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pathgene_rt.errors import UsageError
from pathgene_rt.training.data.privileged import read_privileged

SCORES = "sample,hypoxia,apoptosis\nc1,1,10\nc2,3,10\ns9,5,10\nc4,100,-7\n"
EXPRESSION = "gene,c1,c2,c3\nEGFR,0,1,3\nKRAS,7,1,0\nunused,none,none,none\nTP53,1,3,7\n"
SETS = "ras\thttp://broad\tEGFR\tKRAS\np53\t\tTP53\tabsent\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_scores_by_slide_or_case(tmp_path: Path) -> None:
    table = read_privileged(write(tmp_path, "scores.csv", "\ufeff" + SCORES))
    assert table.names == ("hypoxia", "apoptosis")
    for ids, expected in [
        (("s1", "c1"), [1.0, 10.0]),
        (("s9", "c1"), [5.0, 10.0]),
        (("c4",), [100.0, -7.0]),
    ]:
        scores = table.get(*ids)
        assert scores is not None
        assert scores.tolist() == expected
    assert table.get("s5", "c5") is None
    assert table.get("s1") is None


def test_scores_are_standardised_over_the_training_samples_only(tmp_path: Path) -> None:
    table = read_privileged(write(tmp_path, "scores.csv", SCORES))
    standard = table.standardised(["c1", "s1", "c2", "s9", "c77"])
    scores = [standard.get(name) for name in ("c1", "c2", "s9", "c4")]
    deviation = np.std([1, 3, 5])
    expected = (np.array([1, 3, 5, 100]) - 3) / deviation
    np.testing.assert_allclose([float(score[0]) for score in scores], expected, rtol=1e-6)
    assert [float(score[1]) for score in scores] == [0, 0, 0, 0], "constant in training"
    assert scores[0].dtype.is_floating_point and scores[0].shape == (2,)


def test_gene_sets(tmp_path: Path) -> None:
    expression = write(tmp_path, "tpm.csv", EXPRESSION)
    table = read_privileged(expression, write(tmp_path, "sets.gmt", SETS))
    assert table.names == ("ras", "p53")
    logs = np.log2(1 + np.array([[0, 1, 3], [7, 1, 0], [1, 3, 7]], float))

    def z(rows: np.ndarray) -> np.ndarray:
        train = rows[..., [0, 2]]
        mean, deviation = train.mean(-1, keepdims=True), train.std(-1, keepdims=True)
        return (rows - mean) / deviation

    genes = z(logs)
    # EGFR and KRAS cancel in the training samples c1 and c3, so their set is constant there.
    assert np.allclose(genes[:2].mean(0)[[0, 2]], 0)
    standard = table.standardised(["c1", "c3"])
    for place, name in enumerate(("c1", "c2", "c3")):
        scores = standard.get(name)
        assert scores is not None
        assert float(scores[0]) == 0
        assert float(scores[1]) == pytest.approx(z(genes[2])[place], rel=1e-6)
    raw = table.get("c1")
    assert raw is not None
    assert raw.tolist() == pytest.approx([1.5, 1.0]), "mean log expression before that"


def test_a_set_outweighs_no_gene_by_its_expression(tmp_path: Path) -> None:
    """Two genes of one pattern, one a thousand times as expressed: both count the same."""
    text = "gene\ta\tb\tc\tloud\nx\t1\t3\t7\t1\ny\t1023\t2047\t4095\t4095\n"
    sets = write(tmp_path, "sets.gmt", "both\t\tx\ty\n")
    table = read_privileged(write(tmp_path, "tpm.tsv", text), sets).standardised("abc")
    loud, low = table.get("loud"), table.get("a")
    assert loud is not None and low is not None
    assert float(loud[0]) == pytest.approx(0, abs=1e-6)
    assert float(low[0]) == pytest.approx(-np.sqrt(1.5), rel=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s,h\nc1,1\nc2,x\n", "row c2, column h holds 'x', which is no finite number"),
        ("s,h\nc1,\nc2,1\n", "row c1, column h holds ''"),
        ("s,h\nc1,nan\n", "row c1, column h holds 'nan'"),
        ("s,h\nc1,1\nc1,2\n", "a row c1 occurs twice"),
        ("s,h,h\nc1,1,2\n", "a column h occurs twice"),
        ("s,\nc1,1\n", "a column without a name"),
        ("s,h\nc1,1,2\n", "line 2: has 3 cells, the first line 2"),
        ("s,h\n", "has no row"),
        ("", "has no column of values"),
    ],
)
def test_refuses_tables(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_privileged(write(tmp_path, "scores.csv", text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "sets", "message"),
    [
        (EXPRESSION, "", "holds no gene set"),
        (EXPRESSION, "ras\thttp://broad\n", "line 1: the gene set 'ras' is empty"),
        (EXPRESSION, "ras\n", "line 1: the gene set 'ras' is empty"),
        (EXPRESSION, "a\t\tEGFR\na\t\tKRAS\n", "line 2: the gene set a occurs twice"),
        (EXPRESSION, "a\t\tEGFR\tb\tc\n", r"has 1 of the 3 genes of a .*\(not b, c\)"),
        (EXPRESSION, "a\t\tb\n", "has no row of a gene in the gene sets"),
        ("gene,c1\nEGFR,-1\n", "a\t\tEGFR\n", "expression of EGFR in c1 is below 0"),
        ("gene,c1\nEGFR,1\nEGFR,2\n", "a\t\tEGFR\n", "a row EGFR occurs twice"),
        ("gene,c1\nEGFR,high\n", "a\t\tEGFR\n", "row EGFR, column c1 holds 'high'"),
    ],
)
def test_refuses_expression(expression: str, sets: str, message: str, tmp_path: Path) -> None:
    table, gmt = write(tmp_path, "tpm.csv", expression), write(tmp_path, "sets.gmt", sets)
    with pytest.raises(UsageError, match=message):
        read_privileged(table, gmt)


def test_says_when_samples_and_slides_do_not_meet(tmp_path: Path) -> None:
    table = read_privileged(write(tmp_path, "scores.csv", SCORES))
    with pytest.raises(UsageError, match=r"0 of its 4 samples \(c1, c2, s9, c4\) belong to"):
        table.standardised(["TCGA-05-4249"])


def test_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_privileged(tmp_path / "none.csv")
