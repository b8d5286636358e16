"""Which tiles speak for an answer, and whether attention explains it: heads of known answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from pathgene_rt.bundle.spec import HeadSpec
from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.geometry import Float32Array
from pathgene_rt.heads.prediction import make_prediction
from pathgene_rt.heads.run import HeadResult
from pathgene_rt.report.evidence import LEAST_TILES, SHOWN_TILES, TRIED_TILES, gather_evidence
from tests.support import tiny_models as tiny

HEAD = tiny.head_spec("egfr", tiny.tiny_head_onnx())


def bag_of(values: Float32Array) -> FeatureBag:
    """Tiles whose first feature is given, the other ones are 0."""
    features = np.zeros((len(values), tiny.DIM), np.float32)
    features[:, 0] = values
    xy = np.stack([np.arange(len(values)) * 256, np.zeros(len(values))], axis=1).astype(np.int32)
    return FeatureBag("s", features, xy, 256, 0.5, 256.0, None)


def mean_head(heads: Sequence[HeadSpec], bag: FeatureBag) -> Mapping[str, HeadResult]:
    """The logit of the last class is the mean of the first feature, whatever attention says."""
    logit = float(bag.features[:, 0].mean(dtype=np.float64))
    return {head.name: HeadResult(np.array([0.0, logit], np.float32), None) for head in heads}


def evidence(values: Float32Array, attention: Float32Array):
    bag = bag_of(values)
    prediction = make_prediction(HEAD, mean_head((HEAD,), bag)[HEAD.name].logits)
    given = {HEAD.name: (attention / attention.sum())[:, None].astype(np.float32)}
    found = gather_evidence((HEAD,), mean_head, bag, (prediction,), given)
    return found[HEAD.name]


def test_tiles_are_sorted_by_what_the_head_says_of_each_alone() -> None:
    values = np.tile(np.array([4, 4, -2], np.float32), 20)
    found = evidence(values, np.arange(60, 0, -1, dtype=np.float32))
    assert found.tried == TRIED_TILES
    assert [tile.row for tile in found.tiles_for] == [0, 1, 3, 4, 6, 7][:SHOWN_TILES]
    assert [tile.row for tile in found.tiles_against] == [2, 5, 8, 11, 14, 17][:SHOWN_TILES]
    assert found.tiles_for[0].alone == pytest.approx(1 / (1 + np.exp(-4)))
    assert found.tiles_against[0].alone == pytest.approx(1 / (1 + np.exp(2)))
    assert found.tiles_for[1].xy == (256, 0)
    assert found.rows.tolist() == [0, 1, 3, 4, 6, 7, 2, 5, 8, 11, 14, 17]


def test_attention_on_the_tiles_that_matter_explains_the_answer() -> None:
    values = np.zeros(100, np.float32)
    values[:10] = 20
    on_them = evidence(values, np.arange(100, 0, -1, dtype=np.float32)).faithfulness
    assert on_them is not None
    assert on_them.removed == 10
    assert on_them.whole.probability == pytest.approx(1 / (1 + np.exp(-2)))
    assert on_them.without_top.probability == pytest.approx(0.5)
    assert abs(on_them.without_random.log_odds - 2) < 0.8
    assert on_them.explains


def test_attention_elsewhere_does_not_explain_it() -> None:
    values = np.zeros(100, np.float32)
    values[:10] = 20
    elsewhere = evidence(values, np.arange(1, 101, dtype=np.float32)).faithfulness
    assert elsewhere is not None
    assert elsewhere.without_top.log_odds == pytest.approx(200 / 90)
    assert not elsewhere.explains


def test_a_probability_that_is_all_but_certain_is_judged_too() -> None:
    values = np.full(100, 30, np.float32)
    values[:10] = 300
    found = evidence(values, np.arange(100, 0, -1, dtype=np.float32)).faithfulness
    assert found is not None
    assert found.whole.probability - found.without_top.probability < 1e-12
    assert found.explains


@pytest.mark.parametrize("tiles", [1, LEAST_TILES - 1])
def test_few_tiles_say_nothing_of_faithfulness(tiles: int) -> None:
    found = evidence(np.ones(tiles, np.float32), np.ones(tiles, np.float32))
    assert found.faithfulness is None
    assert found.tried == tiles
    assert not found.tiles_against
