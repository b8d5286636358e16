"""The export TOML and `pathgene-rt export`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.spec import Preprocess
from pathgene_rt.cli.export import export
from pathgene_rt.errors import CheckpointError, MissingExtraError, UsageError
from pathgene_rt.export import encoder as encoder_module
from pathgene_rt.export import requirements
from pathgene_rt.export.config import load_config
from tests.support.exported_models import TinyEncoder, write_head, write_tiny_encoder

pytestmark = pytest.mark.usefixtures("graphs_exported_once")

PANEL = """
encoder = "encoder.pth"
out = "out/panel.pgrt"
name = "lung"
version = "2.1"
licence = "CC-BY-4.0"
golden = ["a.svs"]

[preprocess]
mpp = 1.0
reduction = "bilinear"

[[head]]
path = "egfr.pt"
threshold = 0.4

[[head]]
path = "heads/b.pt"
name = "kras"
kind = "mutation"
gene = "KRAS"
"""

app = typer.Typer()
app.command()(export)


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/export/test_compiled.py has NVIDIA's compiler; here it would only take time."""
    monkeypatch.setattr("pathgene_rt.export.compiled.wanted", bool)


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(encoder_module, "CTransPath", TinyEncoder)
    monkeypatch.setattr(encoder_module, "FoldedCTransPath", lambda encoder: encoder)
    monkeypatch.setattr(encoder_module, "IMAGE_PX", 48)
    write_tiny_encoder(tmp_path / "encoder.pth")
    write_head(tmp_path / "egfr.pt")
    return tmp_path


def test_a_panel_is_read_with_its_paths(tmp_path):
    (tmp_path / "panel.toml").write_text(PANEL)
    config = load_config(tmp_path / "panel.toml")
    assert config.encoder == tmp_path / "encoder.pth"
    assert config.out == tmp_path / "out" / "panel.pgrt"
    assert config.golden == (tmp_path / "a.svs",)
    assert config.preprocess == Preprocess(mpp=1.0, reduction="bilinear")
    egfr, kras = config.head
    assert (egfr.path, egfr.head_name, egfr.threshold) == (tmp_path / "egfr.pt", "egfr", 0.4)
    assert (kras.path, kras.head_name, kras.gene) == (tmp_path / "heads" / "b.pt", "kras", "KRAS")


def test_limits_domain_and_panel_are_read(tmp_path):
    (tmp_path / "panel.toml").write_text(
        "[adequacy]\nmin_tiles = 50\n[domain]\npath = 'run/domain.npz'\n"
        "[quality]\npolicy = 'exclude'\n"
        "[[panel]]\nhead = 'exon'\nneeds = 'egfr'\ncalled = 'mutated'\n"
    )
    config = load_config(tmp_path / "panel.toml")
    assert config.adequacy.min_tiles == 50
    assert config.quality is not None and config.quality.excludes
    assert config.domain.path == tmp_path / "run" / "domain.npz"
    assert (config.domain.policy, config.domain.alarm) == ("report", 0.05)
    assert [(one.head, one.needs, one.called) for one in config.panel] == [
        ("exon", "egfr", "mutated")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[adequacy]\nmin_tumour = 1", r"adequacy\.min_tumour"),
        ("[quality]\npolicy = 'mend'", r"quality\.policy"),
        ("[quality]\nchecks = ['folds']", r"quality\.checks"),
        ("[domain]\npath = 'x'\npolicy = 'ignore'", r"domain\.policy"),
        ('encodr = "x"', "unknown key encodr; did you mean encoder"),
        ('[[head]]\npath = "x"\ntreshold = 0.5', r"head\.0\.treshold; did you mean threshold"),
        ("[preprocess]\nmicrons = 1", r"preprocess\.microns; choose from tile_px"),
        ('[[head]]\nname = "x"', r"the key head\.0\.path is missing"),
        ('[[head]]\npath = "x"\nthreshold = 1.5', r"head\.0\.threshold = 1\.5 does not fit"),
        ("name = 3", "name = 3 does not fit"),
        ("name = ", "no valid TOML"),
    ],
)
def test_a_wrong_panel_is_refused_with_the_key(tmp_path, text, message):
    (tmp_path / "panel.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_config(tmp_path / "panel.toml")


def test_a_panel_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot read the configuration"):
        load_config(tmp_path / "none.toml")


@pytest.mark.world
def test_the_command_exports_a_panel(folder):
    lines = [line for line in PANEL.splitlines() if "golden" not in line]
    text = "\n".join(lines).replace("heads/b.pt", "egfr.pt")
    small = "mpp = 1.0\ntile_px = 64\nresize_px = 48"
    (folder / "panel.toml").write_text(text.replace("mpp = 1.0", small))
    result = run(str(folder / "panel.toml"), "--version", "3", "--json")
    assert result.exit_code == 0, result.exception
    document = json.loads(result.stdout)
    assert document["heads"] == ["egfr", "kras"]
    assert all(item["difference"] <= item["limit"] for item in document["comparisons"])
    assert "does not say which encoder" in result.stderr
    with Bundle.open(folder / "out" / "panel.pgrt") as bundle:
        assert (bundle.manifest.name, bundle.manifest.version) == ("lung", "3")
        assert bundle.sha256 == document["sha256"]
        assert bundle.preprocess.mpp == 1.0


@pytest.mark.world
def test_the_command_says_what_was_compared(folder):
    (folder / "small.toml").write_text("[preprocess]\ntile_px = 64\nresize_px = 48\n")
    arguments = ["--encoder", str(folder / "encoder.pth"), "--head", f"p53={folder / 'egfr.pt'}"]
    out = folder / "x.pgrt"
    result = run(str(folder / "small.toml"), *arguments, "--out", str(out), "--name", "named")
    assert result.exit_code == 0, result.exception
    for fact in ("head p53", "logits", "fidelity error", "x.pgrt"):
        assert fact in result.stdout
    again = run("--encoder", str(out), "--out", str(out), "--quiet", "--overwrite")
    assert again.exit_code == 0, again.exception
    assert (again.stdout, again.stderr) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--out", "x.pgrt"], UsageError, "--encoder is missing"),
        (["--encoder", "encoder.pth"], UsageError, "--out is missing"),
        (["--encoder", "e.pth", "--out", "x", "--head", "=a"], UsageError, "names no head"),
        (["--encoder", "e.pth", "--out", "x", "--head", "a="], UsageError, "names no file"),
        (["--encoder", "absent.pth", "--out", "x.pgrt"], UsageError, "48 px, not resize_px = 224"),
        (
            ["--encoder", "absent.pth", "--out", "x.pgrt", "--head", "absent.pt"],
            CheckpointError,
            "cannot read the head absent.pt",
        ),
    ],
)
def test_a_command_that_makes_no_sense(folder, monkeypatch, arguments, error, message):
    monkeypatch.chdir(folder)
    result = run(*arguments)
    assert isinstance(result.exception, error)
    assert message in str(result.exception)


def test_weights_that_are_not_there(folder, monkeypatch):
    monkeypatch.undo()
    result = run("--encoder", str(folder / "absent.pth"), "--out", str(folder / "x.pgrt"))
    assert isinstance(result.exception, CheckpointError)
    assert "absent.pth" in str(result.exception)
    assert sorted(item.name for item in folder.iterdir()) == ["egfr.pt", "encoder.pth"]


def test_without_torch_the_command_names_the_extra(monkeypatch):
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    result = run("--encoder", "e.pth", "--out", "x.pgrt")
    assert isinstance(result.exception, MissingExtraError)
    assert "pip install 'pathgene-rt[export,cpu]'" in str(result.exception)
