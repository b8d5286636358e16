"""CLAM's heads: what is special to them. Interface and parity are tested for all heads together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pathgene_rt.errors import CheckpointError
from pathgene_rt.export import upstream
from pathgene_rt.export.upstream import read
from pathgene_rt.training import heads
from pathgene_rt.training.heads.base import DetailedOutput
from pathgene_rt.training.heads.clam import Clam
from tests.support.bags import fits_planted_signal, grid_bag
from tests.support.head_graphs import agree_with_torch, engines
from tests.support.parity import drawn_inputs, drawn_weights, parity_document

WITH_INSTANCES = [
    "clam_sb",
    "clam_sb_ungated",
    "clam_sb_subtyping_big",
    "clam_sb_pathgene",
    "clam_sb_pathgene_dropout",
    "clam_mb",
    "clam_mb_subtyping",
    "clam_mb_ungated_nodropout",
    "clam_mb_pathgene",
]


@pytest.mark.parametrize("file", WITH_INSTANCES)
def test_instance_loss_is_the_originals(file: str) -> None:
    document = parity_document(file)
    compared = 0
    for model in document["models"]:
        head = upstream.load(document["head"], drawn_weights(model), **model["config"])
        assert isinstance(head, Clam)
        head.margin = 0  # the stored ones are of plain cross entropy
        for case in model["cases"]:
            instances = case["outputs"]["instance_eval"]
            if "instance_loss" not in instances:
                continue  # fewer tiles than k_sample, where the original fails
            features = drawn_inputs(case)
            with torch.inference_mode():
                embeddings = head.embed(features)
                scores = head.attention(embeddings)
                loss = head.instance_loss(embeddings, scores, torch.tensor(instances["label"]))
            assert float(loss) == pytest.approx(instances["instance_loss"], abs=1e-5)
            compared += 1
    assert compared


def _clam(architecture: str = "clam_sb", n_classes: int = 2, **options: object) -> Clam:
    head = heads.create(architecture, in_dim=4, n_classes=n_classes, **options)
    assert isinstance(head, Clam)
    return head


def test_instances_of_a_small_bag_are_not_evidence_for_and_against() -> None:
    head = _clam(margin=0)
    embeddings = torch.randn(3, 512)
    attention = torch.tensor([[0.2], [0.5], [0.3]])
    expected = cross_entropy(head.instance_classifiers[1](embeddings[[1, 0]]), torch.tensor([1, 0]))
    label = torch.tensor(1)
    torch.testing.assert_close(head.instance_loss(embeddings, attention, label), expected)
    assert float(head.instance_loss(embeddings[:1], attention[:1], label)) == 0


def test_the_margin_makes_it_the_smooth_top_1_svm() -> None:
    head = _clam(margin=1)
    embeddings = torch.randn(2, 512)
    # log sum_j exp(margin_j + score_j - score_target) of the most attended tile and the least.
    for_it, against = head.instance_classifiers[0](embeddings).unbind()
    expected = torch.stack(
        [
            torch.logaddexp(torch.zeros(()), 1 + for_it[0] - for_it[1]),
            torch.logaddexp(torch.zeros(()), 1 + against[1] - against[0]),
        ]
    ).mean()
    loss = head.instance_loss(embeddings, torch.tensor([[2.0], [1.0]]), torch.tensor(0))
    torch.testing.assert_close(loss, expected)


def test_each_class_has_the_instances_of_its_own_branch() -> None:
    head = _clam("clam_mb", 3, subtyping=True, k_sample=1, margin=0)
    embeddings = torch.randn(4, 512)
    scores = torch.tensor([[3.0, 0, 0], [0, 3, 0], [0, 0, 3], [-1, -1, -1]])
    ours, other, third = head.instance_classifiers
    expected = (
        cross_entropy(other(embeddings[[1, 3]]), torch.tensor([1, 0]))
        + cross_entropy(ours(embeddings[[0]]), torch.tensor([0]))
        + cross_entropy(third(embeddings[[2]]), torch.tensor([0]))
    ) / 3
    torch.testing.assert_close(head.instance_loss(embeddings, scores, torch.tensor(1)), expected)


def test_a_slide_of_several_classes_has_instances_of_each() -> None:
    head = _clam("clam_mb", 3)
    embeddings, scores = torch.randn(20, 512), torch.randn(20, 3)
    both = head.instance_loss(embeddings, scores, torch.tensor([1.0, 0, 1]))
    each = [head.instance_loss(embeddings, scores, torch.tensor(label)) for label in (0, 2)]
    torch.testing.assert_close(both, each[0] + each[1])
    assert float(head.instance_loss(embeddings, scores, torch.zeros(3))) == 0


@pytest.mark.parametrize("architecture", ["clam_sb", "clam_mb", "clam_mil"])
def test_one_class_is_trained_and_run(architecture: str) -> None:
    head = heads.create(architecture, in_dim=4, n_classes=1)
    features = torch.randn(30, 4)
    loss = head.objective(features, torch.ones(1), binary_cross_entropy_with_logits)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert head.eval()(features).logits.shape == (1,)


@pytest.mark.world
@pytest.mark.parametrize("architecture", ["clam_sb", "clam_mb", "clam_mil"])
def test_finds_a_planted_signal(architecture: str) -> None:
    assert fits_planted_signal(heads.create(architecture, in_dim=16, n_classes=2))


def test_instance_classifiers_play_no_part_at_inference() -> None:
    head = _clam("clam_mb", 3).eval()
    features = torch.randn(30, 4)
    before = head(features)
    torch.nn.init.constant_(head.instance_classifiers[0].bias, 100.0)
    assert torch.equal(head(features).logits, before.logits)


def test_the_top_tile_is_the_bag() -> None:
    features = torch.randn(50, 4)
    for n_classes in (1, 2, 3):
        head = heads.create("clam_mil", in_dim=4, n_classes=n_classes).eval()
        output = head(features)
        assert isinstance(output, DetailedOutput) and output.instance_logits is not None
        probabilities = output.instance_logits.softmax(1)
        ranked = {1: output.instance_logits[:, 0], 2: probabilities[:, -1]}
        top = ranked.get(n_classes, probabilities.amax(1)).argmax()
        assert torch.equal(output.logits, output.instance_logits[top])


def test_the_surest_tile_is_found_where_probabilities_round_to_one() -> None:
    head = heads.create("clam_mil", in_dim=4, n_classes=2).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.fill_(1)
        head.classifier.weight[0] = 0
    features = torch.tensor([[10.0] * 4, [30.0] * 4, [20.0] * 4])
    output = head(features)
    assert output.logits.tolist() == head(features[1:2]).logits.tolist()


@pytest.mark.world
@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("clam_sb", {"size": "big", "adapter": 64}),
        ("clam_mb", {}),
        ("clam_mil", {}),
    ],
)
def test_engines_agree(architecture: str, options: dict[str, object]) -> None:
    head = heads.create(architecture, in_dim=48, n_classes=3, **options)
    bags = [grid_bag(head, n, seed=n) for n in (1, 2, 3, 17, 1000, 20_000)]
    agree_with_torch(head.eval(), engines(head, grid_bag(head, 9)), bags)


def _published(file: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    model = parity_document(file)["models"][0]
    return drawn_weights(model), model["config"]


@pytest.mark.parametrize("file", ["clam_sb", "clam_sb_ungated", "clam_mb", "clam_mb_pathgene"])
@pytest.mark.parametrize(
    "renamed",
    [
        lambda key: f"module.{key}",
        lambda key: key.replace("attention_net.", "attention_net.module."),
        lambda key: key.replace("attention_net.3.", "attention_net.3.module."),
        lambda key: key.replace("classifiers.", "classifiers.module."),
        lambda key: key.replace(".module", ""),
    ],
    ids=["whole", "attention", "block", "classifiers", "cleaned"],
)
def test_data_parallel_names_are_those_of_the_plain_file(file: str, renamed: object) -> None:
    state, config = _published(file)
    architecture = file[: len("clam_sb")]
    plain = upstream.load(architecture, state, **config).state_dict()
    old = {renamed(key): tensor for key, tensor in state.items()}  # type: ignore[operator]
    old["instance_loss_fn.labels"] = torch.arange(2)
    loaded = upstream.load(architecture, old, **config).state_dict()
    assert loaded.keys() == plain.keys()
    assert all(torch.equal(loaded[key], plain[key]) for key in plain)


def test_old_names_of_the_max_instance_model() -> None:
    state, config = _published("clam_mil_fc")
    plain = upstream.load("clam_mil", state, **config).state_dict()
    for last in ("2", "3"):
        old = {
            key.replace("classifier", f"classifier.{last}").replace("fc.0", "classifier.0"): tensor
            for key, tensor in state.items()
        }
        loaded = upstream.load("clam_mil", old).state_dict()
        assert all(torch.equal(loaded[key], plain[key]) for key in plain)


def test_pathgenes_copy_is_known_by_its_adapter() -> None:
    for file, activation in (("clam_sb", "softmax"), ("clam_sb_pathgene", "sigmoid")):
        state, config = _published(file)
        assert read("clam_sb", state, config).activation == activation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gate": False}, "this clam_sb has gate = True, not False as the config says"),
        ({"size_arg": "big"}, "this clam_sb has size_arg = small, not big"),
        ({"branch": "mb"}, "this clam_sb has branch = sb, not mb"),
        ({"n_classes": 3}, "this clam_sb has n_classes = 2, not 3"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(
    change: dict[str, object], message: str
) -> None:
    state, config = _published("clam_sb")
    with pytest.raises(CheckpointError, match=message):
        upstream.load("clam_sb", state, **{**config, **change})


def test_another_architecture_is_refused_with_the_differences() -> None:
    state, _ = _published("clam_sb")
    with pytest.raises(
        CheckpointError, match=r"missing classifiers.0.bias, .*; unexpected classifiers.bias"
    ):
        upstream.load("clam_mb", state)
    with pytest.raises(CheckpointError, match=r"this is no clam_mil: the key fc.0.weight"):
        upstream.load("clam_mil", state)
    del state["instance_classifiers.1.bias"]
    with pytest.raises(
        CheckpointError, match=r"missing instance_classifiers.1.bias; unexpected no"
    ):
        upstream.load("clam_sb", state)
