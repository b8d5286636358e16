"""``archive`` on the command line, without Ray: looking, steering, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pathgene_rt.archive.layout import ArchiveLayout
from pathgene_rt.archive.tasks import Ended, Task
from pathgene_rt.cli.main import app
from pathgene_rt.errors import NoTissueError, UsageError
from tests.archive.test_run import DONE, failed, run
from tests.support.scripted_pool import ScriptedPool


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["archive", *map(str, arguments)])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of a run of six slides, of which one failed and one cost its worker."""
    out = tmp_path_factory.mktemp("archive")
    deaths: list[int] = []

    def do(worker: int, task: Task) -> Ended | str:
        if task.name == "s5" and not deaths:
            deaths.append(worker)
            return "killed"
        return failed(NoTissueError("s1: no tissue")) if task.name == "s1" else DONE

    run(out, ScriptedPool(do, out=out))
    return out


def test_status_for_people(archive: Path) -> None:
    shown = command("status", archive, "--events")
    assert shown.exit_code == 0, shown.output
    assert "predict with b: done" in shown.stdout
    assert "slides: 6 (5 done, 1 failed)" in shown.stdout
    assert "NoTissueError" in shown.stdout and "s1: no tissue" in shown.stdout
    assert "which had s5, died: killed" in shown.stdout


def test_status_for_programs(archive: Path) -> None:
    document = json.loads(command("status", archive, "--json", "--events").stdout)
    assert document["slides"] == {"done": 5, "failed": 1}
    assert document["failures"]["NoTissueError"]["count"] == 1
    assert sum(node["slides"] for node in document["nodes"]) == 6
    told = [event["what"] for event in document["events"]]
    assert "worker 1 opened on node1: numpy" in told
    assert sorted(event["at"] for event in document["events"]) == [
        event["at"] for event in document["events"]
    ]


def test_a_pause_is_said_and_taken_back(archive: Path) -> None:
    assert command("pause", archive).exit_code == 0
    assert ArchiveLayout(archive).pause.exists()
    assert command("continue", archive).exit_code == 0
    assert not ArchiveLayout(archive).pause.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("status", "{0}/none"), "is no archive's folder"),
        (("collect", "{0}"), "holds no result"),
        (("predict", "{0}", "-o", "s3:/bucket/out"), "is neither a folder nor an address"),
        (("fetch", "{0}", "-o", "{0}/o"), "is no address of a store"),
        (("predict", "{0}", "-o", "{0}/o", "--max-rate", "fast"), "'fast' is no size"),
        (("predict", "{0}", "-o", "{0}/o", "--workers", "-1"), "--workers -1 is out of range"),
        (("extract", "{0}", "-o", "{0}/o", "--mpp", "9"), "is no microscope's scale"),
    ],
)
def test_what_is_refused(archive: Path, arguments: tuple[str, ...], words: str) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    pytest.importorskip("pyarrow", reason="needs the extra ray")
    refused = command(*(argument.format(archive) for argument in arguments))
    assert isinstance(refused.exception, UsageError)
    assert words in str(refused.exception)
    assert not (archive / "o").exists()
