"""What `build` was told of TensorRT is what later commands ask for; how progress is shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.cli.console import Console
from pathgene_rt.cli.main import app
from pathgene_rt.engines import registry
from pathgene_rt.engines.backend import Availability, NotBuiltError
from pathgene_rt.engines.qualify.build import build
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.errors import EngineError, UsageError
from pathgene_rt.options import EngineOptions, TensorRtOptions
from tests.support import tiny_models as tiny
from tests.support.fake_tensorrt import GPU


@pytest.fixture
def bundle(tmp_path) -> Iterator[Bundle]:
    with Bundle.open(tiny.tiny_bundle(tmp_path / "tiny.pgrt")) as opened:
        yield opened


class Elsewhere:
    """A backend under TensorRT's name whose engines are ONNX Runtime's; notes its options."""

    name = "tensorrt"
    on_gpu = True
    honours_tensorrt_options = True

    def __init__(self) -> None:
        self.asked: list[TensorRtOptions | None] = []

    def probe(self) -> Availability:
        return Availability(True, "", "11.4", (GPU.name,), ("float32",))

    def create(self, model, spec, options, precision, cache, *, progress=None):
        from pathgene_rt.engines.onnxruntime.backend import BACKEND as CPU

        self.asked.append(options.tensorrt)
        if progress is not None:
            progress("building", 0.5)
        return CPU.create(model, spec, options, precision, cache)


@pytest.fixture
def elsewhere(monkeypatch) -> Elsewhere:
    found = Elsewhere()
    monkeypatch.setattr(registry, "BACKENDS", (("tensorrt", "elsewhere"),))
    monkeypatch.setattr(registry, "load_backend", lambda name: found)
    return found


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_later_commands_ask_for_the_engines_that_build_made(bundle, elsewhere, tmp_path, precision):
    options = EngineOptions(cache_dir=tmp_path / "cache", precision=precision)
    asked = TensorRtOptions(strip_weights=True, workspace_mb=512, max_batch=16)
    told = []
    build(bundle, replace(options, tensorrt=asked), lambda *what: told.append(what))
    assert set(elsewhere.asked) == {asked}
    assert ("building", 0.5) in told
    assert EngineFactory(bundle, options).options.tensorrt == asked
    assert EngineFactory(bundle, replace(options, precision="float32")).options.tensorrt == asked
    elsewhere.asked.clear()
    build(bundle, options)  # without flags: as if never told otherwise
    assert set(elsewhere.asked) == {TensorRtOptions()}
    assert EngineFactory(bundle, options).options.tensorrt == TensorRtOptions()


def test_a_build_of_one_precision_decides_nothing_about_auto(bundle, elsewhere, tmp_path):
    options = EngineOptions(cache_dir=tmp_path / "cache", precision="float32")
    build(bundle, options)
    factory = EngineFactory(bundle, replace(options, precision="auto"))
    assert factory._choose_precision()[0] == "float32"
    assert "found no precision within the limits" not in factory.notes[0]


def test_auto_leaves_out_a_card_on_which_build_could_not_run_the_bundle(
    bundle, elsewhere, tmp_path, monkeypatch
):
    from pathgene_rt.engines.onnxruntime.backend import BACKEND as CPU

    def refuse(*_args, **_named):
        raise EngineError("tensorrt cannot read egfr: node 7 (Unique)")

    both = {"tensorrt": elsewhere, "onnxruntime": CPU}
    monkeypatch.setattr(registry, "BACKENDS", tuple((name, name) for name in both))
    monkeypatch.setattr(registry, "load_backend", both.__getitem__)
    options = EngineOptions(cache_dir=tmp_path / "cache")
    assert EngineFactory(bundle, options).selection.backend is elsewhere
    monkeypatch.setattr(elsewhere, "create", refuse)
    build(bundle, options)
    factory = EngineFactory(bundle, options)
    assert factory.selection.backend is CPU
    assert factory.notes[0] == (
        "engine tensorrt not used: tensorrt cannot read egfr: node 7 (Unique)"
    )
    assert (
        EngineFactory(bundle, replace(options, backend="tensorrt")).selection.backend is elsewhere
    )


def test_options_of_another_version_count_as_none():
    known = TensorRtOptions(max_batch=4)
    assert TensorRtOptions.of_record({"max_batch": 4}) == known
    for record in (None, "text", {"max_batch": -1}, {"unheard_of": 1}, {"workspace_mb": 1 << 40}):
        assert TensorRtOptions.of_record(record) == TensorRtOptions()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"workspace_mb": -1}, "workspace -1 MB is out of range"),
        ({"max_batch": 5000}, "max_batch 5000 is out of range"),
        ({"hardware_compatible": "hopper"}, "compatibility 'hopper' is unknown"),
    ],
)
def test_options_that_make_no_sense_are_refused(asked, told):
    with pytest.raises(UsageError, match=told):
        TensorRtOptions(**asked)


def test_build_hands_the_flags_on(tmp_path, elsewhere):
    path = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    flags = ["--workspace", "300", "--version-compatible", "--strip-weights", "--batch", "4"]
    more = ["--hardware-compatible", "ampere_plus", "--quiet"]
    result = CliRunner().invoke(app, ["build", str(path), "--engine", "tensorrt", *flags, *more])
    assert result.exit_code == 0, result.output
    assert set(elsewhere.asked) == {
        TensorRtOptions(
            workspace_mb=300,
            max_batch=4,
            version_compatible=True,
            hardware_compatible="ampere_plus",
            strip_weights=True,
        )
    }


def test_steps_are_lines_and_shares_are_a_bar(monkeypatch, capsys):
    with Console().steps() as step:
        step("one")
        step("two", 0.5)
        step("three", None)
    assert capsys.readouterr().err == "one\nthree\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Console().steps() as step:
        step("two", 0.25)
        step("two", 0.5)
        assert step._bar is not None
        (task,) = step._bar._bars.tasks
        assert (task.description, task.completed, task.total) == ("two", 50, 100)
        step("three")
        assert step._bar is None


def test_a_head_that_does_not_build_for_the_card_runs_on_the_next_engine(
    bundle, elsewhere, tmp_path, monkeypatch
):
    """Also where the engine was named: it is the encoder's."""
    from pathgene_rt.engines.onnxruntime.backend import BACKEND as CPU

    create = elsewhere.create

    def encoder_alone(model, spec, *rest, **more):
        if spec.preprocess is None:
            raise NotBuiltError("TensorRT for RTX builds no engine of it for cards of 7.5")
        return create(model, spec, *rest, **more)

    both = {"tensorrt": elsewhere, "onnxruntime": CPU}
    monkeypatch.setattr(registry, "BACKENDS", tuple((name, name) for name in both))
    monkeypatch.setattr(registry, "load_backend", both.__getitem__)
    monkeypatch.setattr(elsewhere, "create", encoder_alone)
    for backend in ("auto", "tensorrt"):
        factory = EngineFactory(bundle, EngineOptions(cache_dir=tmp_path, backend=backend))
        with factory.encoder() as encoder, factory.head("egfr") as head:
            assert encoder.info.backend == head.info.backend == "onnxruntime"
        (note,) = [note for note in factory.notes if note.startswith("egfr on onnxruntime ")]
        assert note.endswith(
            " in float32: TensorRT for RTX builds no engine of it for cards of 7.5"
        )
    found = build(bundle, EngineOptions(cache_dir=tmp_path, backend="tensorrt"))
    assert found.chosen == {"tensorrt": "float32"}
