"""The weights and inputs behind the golden outputs of the published implementations."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def parity_fill(shared: Path) -> ModuleType:
    """The module that draws the weights and inputs of the golden outputs."""
    spec = importlib.util.spec_from_file_location("parity_fill", shared / "parity" / "fill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(fill: ModuleType, model: dict[str, Any]) -> dict[str, Tensor]:
    """The drawn tensors of one golden model by their published names."""
    arrays = fill.fill(model["state_dict"], model["weight_seed"])
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
