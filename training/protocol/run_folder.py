"""The folder of a training run: what lies where, and what a later run may keep of it.

    run.json                 configuration, figures, splits (written last)
    <head>.pt                the checkpoint that `pathgene-rt export` takes
    folds/<head>/<k>.json    history and logits of fold k (from 1), as soon as it is finished
    folds/<head>/final.json  says that <head>.pt is finished
    leaderboard.csv, .html and .png, where methods were compared
    domain.npz               what the features are like, where it was asked for

Every file is written whole or not at all, so that a run that was stopped can go on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from pathgene_rt.errors import OutputError, UsageError
from pathgene_rt.evaluation.metrics import Floats
from pathgene_rt.files import reason, write_json
from pathgene_rt.training.data.cohort import LabelledSlide, Split
from pathgene_rt.training.loop import History

RUN_FILE = "run.json"
LEADERBOARD = "leaderboard"
DOMAIN = "domain.npz"


@dataclass(frozen=True)
class FoldResult:
    """A fold that was trained: logits float64 [slides, classes] of the parts that it was not
    trained on, in the order of ``split``. ``seconds`` is wall time."""

    split: Split
    history: History
    validation_logits: Floats
    test_logits: Floats
    seconds: float


@dataclass(frozen=True)
class FinalWeights:
    """How the weights of a head's checkpoint came about; ``seconds`` is wall time beyond the
    folds'."""

    history: History
    seconds: float


class RunFolder:
    """The files of the run in ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def checkpoint(self, head: str) -> Path:
        return self.path / f"{head}.pt"

    def diverged(self, head: str) -> Path:
        """Where the best weights go of a head whose loss stopped being a number."""
        return self.path / f"{head}.diverged.pt"

    def folds(self, head: str, settings: Mapping[str, Any]) -> SavedFolds:
        """What is saved of ``head``, made with ``settings``."""
        return SavedFolds(self.path / "folds" / head, settings)

    def refuse_results(self, heads: Sequence[str]) -> None:
        """Raise :class:`OutputError` if there are results of a run, or of one of ``heads``."""
        there = [path for path in self._results(heads) if path.exists()]
        if there:
            raise OutputError(
                f"{self.path} holds results already ({there[0].name}); use --resume to go on with "
                "them, --overwrite, or another --out"
            )

    def clear(self, heads: Sequence[str]) -> None:
        """Remove what :meth:`refuse_results` would refuse, so that no later --resume mixes runs."""
        try:
            for path in self._results(heads):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot remove the results in {self.path}: {reason(error)}; choose another --out"
            ) from error

    def _results(self, heads: Sequence[str]) -> list[Path]:
        kinds = ("csv", "html", "png")
        files = [RUN_FILE, DOMAIN, *(f"{LEADERBOARD}.{kind}" for kind in kinds)]
        results = [self.path / name for name in files]
        for head in heads:
            results += [self.checkpoint(head), self.diverged(head), self.path / "folds" / head]
        return results


class SavedFolds:
    """The finished folds of one head, each with the settings that it was made with."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self._settings = _flat(settings)

    def read(self, number: int, split: Split) -> FoldResult | None:
        """Fold ``number``, None if it was not finished. Raises :class:`UsageError` if it was made
        with other settings or on other slides, or is damaged."""
        document = self._read(str(number))
        if document is None:
            return None
        history, seconds = document.history, document.seconds
        parts = [
            self._logits(number, logits, slides)
            for logits, slides in (
                (document.validation, split.validation),
                (document.test, split.test),
            )
        ]
        return FoldResult(split, history, parts[0], parts[1], seconds)

    def write(self, number: int, fold: FoldResult) -> None:
        self._write(
            str(number),
            fold.history,
            fold.seconds,
            validation=_by_slide(fold.split.validation, fold.validation_logits),
            test=_by_slide(fold.split.test, fold.test_logits),
        )

    def read_final(self) -> FinalWeights | None:
        """How the finished checkpoint came about, None if it is not finished."""
        document = self._read("final")
        return FinalWeights(document.history, document.seconds) if document else None

    def write_final(self, final: FinalWeights) -> None:
        self._write("final", final.history, final.seconds)

    def _write(self, name: str, history: History, seconds: float, **logits: Any) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {self._folder}: {reason(error)}") from error
        document = {
            "settings": self._settings,
            "history": asdict(history),
            "seconds": round(seconds, 3),
            **logits,
        }
        write_json(self._folder / f"{name}.json", document)

    def _read(self, name: str) -> _FoldFile | None:
        path = self._folder / f"{name}.json"
        if not path.exists():
            return None
        try:
            document = TypeAdapter(_FoldFile).validate_python(
                json.loads(path.read_text(encoding="utf-8"))
            )
        except OSError as error:
            raise UsageError(f"cannot read {path}: {reason(error)}") from error
        except (ValueError, ValidationError) as error:
            raise UsageError(f"{path} is damaged; remove it to train this again") from error
        for key in sorted(self._settings.keys() | document.settings.keys()):
            before, now = document.settings.get(key), self._settings.get(key)
            if before != now:
                raise UsageError(
                    f"{path} was made with {key} = {before!r}, now it is {now!r}; set it back, use "
                    "--overwrite, or another --out"
                )
        return document

    def _logits(
        self, number: int, logits: dict[str, list[float]], slides: Sequence[LabelledSlide]
    ) -> Floats:
        names = [slide.slide_id for slide in slides]
        if sorted(names) != sorted(logits):
            raise UsageError(
                f"{self._folder / f'{number}.json'} was made with another split; use --overwrite, "
                "or another --out"
            )
        return np.array([logits[name] for name in names], dtype=np.float64)


@dataclass(frozen=True)
class _FoldFile:
    """The entries of a file in folds/; logits by slide id."""

    settings: dict[str, Any]
    history: History
    seconds: float
    validation: dict[str, list[float]] = field(default_factory=dict)
    test: dict[str, list[float]] = field(default_factory=dict)


def _by_slide(slides: Sequence[LabelledSlide], logits: Floats) -> dict[str, list[float]]:
    return {slide.slide_id: row.tolist() for slide, row in zip(slides, logits, strict=True)}


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted keys, as JSON gives them back."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
