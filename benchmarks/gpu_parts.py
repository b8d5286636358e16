"""The parts of `gpu.py`, each in a process of its own: ``python gpu_parts.py PART SETTINGS.json``.

Prints one JSON line a measurement.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from gpu_bench import Bench, Row, Settings
from gpu_engines import cost, decoding, engines, slide
from gpu_torch import ceilings, clam, torch_autocast, torch_compile, torch_eager

PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "ceilings": ceilings,
    "cost": cost,
    "torch-eager": torch_eager,
    "torch-autocast": torch_autocast,
    "torch-compile": torch_compile,
    "clam": clam,
    "engines": engines,
    "decoding": decoding,
    "slide": slide,
}
"""By name, in the order in which they are run."""


if __name__ == "__main__":
    chosen = Settings.read(Path(sys.argv[2]))
    for measured in PARTS[sys.argv[1]](Bench(chosen)):
        print(json.dumps({"part": sys.argv[1], **measured}), flush=True)
