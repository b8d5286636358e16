"""``pathgene-rt`` on a computer with a card that TensorRT for RTX builds for, as far as a test can
have one: engines are built by the library, kept, found and given to be loaded; what computes is
the graph, on the processor.

    python -m tests.support.rtx_build FILE build BUNDLE ...   # FILE gets what is built
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pathgene_rt.cli.entry import main
from pathgene_rt.engines.onnxruntime.backend import BACKEND as PROCESSOR
from pathgene_rt.engines.tensorrt import ahead_of_time, backend
from pathgene_rt.engines.tensorrt.rtx_backend import BACKEND
from tests.support.fake_tensorrt import GPU


class Card:
    """A GPU as far as the backend looks at it."""

    name = GPU.name

    @contextmanager
    def current(self, doing: str) -> Iterator[None]:
        del doing
        yield


def loaded(library: Any, plan: bytes, *_: Any, **__: Any) -> Any:
    """What is given to a card must be an engine: whole, as long as any is."""
    del library
    assert len(plan) > 10_000
    return SimpleNamespace(engine=SimpleNamespace(num_optimization_profiles=1))


def run_nothing(load: Callable[[], Any], *_: Any) -> Any:
    load()
    return SimpleNamespace(warn=lambda _: None)


def put_card(built: Path) -> None:
    """From now on this process has the card. Names of graphs that are built go to ``built``."""
    backend.driver_problem = lambda: ""
    backend.cuda_devices = lambda: (GPU,)
    backend.device_package = lambda: "cuda.core"
    backend.open_device = lambda _: Card()
    backend.load_plan = loaded
    backend.TensorRtRunner = run_nothing
    build, create = ahead_of_time.build_ahead, type(BACKEND).create

    def noted(model: bytes, spec: Any, *rest: Any, **more: Any) -> Any:
        with built.open("a") as file:
            file.write(f"{spec.name}\n")
        return build(model, spec, *rest, **more)

    def made(self: Any, model: bytes, spec: Any, options: Any, *rest: Any, **more: Any) -> Any:
        create(self, model, spec, options, *rest, **more)
        return PROCESSOR.create(model, spec, options, "float32", None)

    ahead_of_time.build_ahead = noted
    type(BACKEND).create = made


if __name__ == "__main__":
    put_card(Path(sys.argv.pop(1)))
    main()
