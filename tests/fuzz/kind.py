"""What every kind of input is: how a case is made, what reads it, and when it ends well.

A case ends well if the product takes the input, or refuses it with an error of its own that has a
documented exit code and one line of words. Anything else is a finding.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from pathgene_rt.errors import PathGeneError

DOCUMENTED = frozenset({0, 2, 3, 4, 5, 6, 7, 130})


class FindingError(Exception):
    """What a case should not have done."""


class Kind(ABC):
    """One kind of input. ``prepare`` is called once; ``folder`` is the worker's own."""

    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prepare()

    def prepare(self) -> None:
        """Write what all cases start from."""
        self.folder.mkdir(exist_ok=True)

    @abstractmethod
    def make(self, rng: random.Random) -> Path:
        """Write a case."""

    @abstractmethod
    def read(self, path: Path, rng: random.Random) -> None:
        """Let the product read it."""

    def check(self, path: Path, rng: random.Random) -> str:
        """The outcome in a word: "taken" or the name of the error. Raises FindingError."""
        try:
            self.read(path, rng)
        except PathGeneError as error:
            text = str(error)
            if error.exit_code not in DOCUMENTED:
                raise FindingError(f"undocumented exit code {error.exit_code}: {text}") from error
            if not text or "\n" in text:
                raise FindingError(
                    f"{type(error).__name__} is not of one line: {text!r}"
                ) from error
            return type(error).__name__
        except MemoryError:
            raise
        except FindingError:
            raise
        except Exception as error:
            raise FindingError(f"foreign exception {type(error).__name__}: {error}") from error
        return "taken"


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
