"""Which backend runs a bundle here, and why the ones before it do not."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import cast

from pathgene_rt.bundle.bundle import ENCODER_FILE, Bundle
from pathgene_rt.bundle.spec import HeadSpec, ModelSpec, PoolingSpec
from pathgene_rt.engines.backend import Availability, Backend, NotBuiltError, ProgressCallback
from pathgene_rt.engines.cache.keys import DecisionKey
from pathgene_rt.engines.cache.store import cache_warnings, open_cache
from pathgene_rt.engines.cuda.driver import cuda_devices
from pathgene_rt.engines.engine import Engine
from pathgene_rt.engines.known_backends import BACKENDS
from pathgene_rt.engines.machine import fingerprint
from pathgene_rt.errors import EngineError, EngineUnavailableError, UsageError
from pathgene_rt.options import (
    DEFAULT_IN_FLIGHT,
    EngineOptions,
    Precision,
    TensorRtOptions,
)
from pathgene_rt.package_versions import package_version


@dataclass(frozen=True)
class Skipped:
    """A backend that ``auto`` prefers to the one that runs, and why it does not run."""

    backend: Backend
    why: str

    @property
    def name(self) -> str:
        return self.backend.name


@dataclass(frozen=True)
class Selection:
    """The backend that runs, what it offers here, and the preferred ones that do not run."""

    backend: Backend
    availability: Availability
    skipped: tuple[Skipped, ...] = ()


def load_backend(name: str) -> Backend:
    """The backend called ``name``. Raises UsageError that lists the known names."""
    for known, module in BACKENDS:
        if known == name:
            return cast(Backend, importlib.import_module(module).BACKEND)
    names = ", ".join(("auto", *(known for known, _ in BACKENDS)))
    raise UsageError(f"engine {name!r} is unknown; choose one of {names}")


def backend_names(*, on_gpu: bool | None = None) -> tuple[str, ...]:
    """Names in order of preference: all, or those that compute on a card, or those that do not."""
    names = (name for name, _ in BACKENDS)
    return tuple(name for name in names if on_gpu in (None, load_backend(name).on_gpu))


def candidates(options: EngineOptions) -> tuple[Backend, ...]:
    """The backends that ``options.backend`` allows, in order of preference."""
    if options.backend != "auto":
        return (load_backend(options.backend),)
    return tuple(load_backend(name) for name, _ in BACKENDS)


def choose(options: EngineOptions, failed: Mapping[str, str] = MappingProxyType({})) -> Selection:
    """The first backend that is available and offers the precision asked for, none of those that
    ``failed``, by name and why.

    Raises EngineUnavailableError that says for each backend why it cannot run.
    """
    skipped: list[Skipped] = []
    for backend in candidates(options):
        availability = backend.probe()
        why = failed.get(backend.name) or availability.refusal(options.precision)
        if not why:
            return Selection(backend, availability, tuple(skipped))
        skipped.append(Skipped(backend, why))
    reasons = "; ".join(f"{names}: {why}" for names, why in _reasons(skipped))
    if options.backend == "auto":
        raise EngineUnavailableError(f"no engine can run here ({reasons})")
    raise EngineUnavailableError(f"engine {reasons}")


class EngineFactory:
    """Makes the engines of one bundle. Backend and precision are chosen at construction, and again
    only if :meth:`encoder` meets a card that does not do what it promised.

    ``selection`` says which backend runs and which were skipped; ``precision`` is the encoder's;
    ``options`` are those given, with the batch and the calls at once that are used; ``cache`` is
    the folder of engines and decisions, None if it is turned off. ``progress`` hears of engines
    that take minutes to build. Raises EngineUnavailableError if nothing fits ``options``.
    """

    def __init__(
        self, bundle: Bundle, options: EngineOptions, *, progress: ProgressCallback | None = None
    ) -> None:
        self._bundle = bundle
        self._asked = options
        self._progress = progress
        self.cache = open_cache(options, f"{bundle.manifest.name} {bundle.manifest.version}")
        self._failed: dict[str, str] = {}
        self._elsewhere: dict[str, str] = {}
        self._choose()

    @property
    def key(self) -> DecisionKey:
        """Under which key decisions about this bundle on this engine are kept."""
        return decision_key(self._bundle, self.selection.backend.name, self.selection.availability)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report says of its engines: those skipped and why, the one that runs and why in
        this precision, graphs that run on another, and trouble with the cache folder.
        """
        backend, availability = self.selection.backend, self.selection.availability
        skipped = [
            f"engine {names} not used: {why}" for names, why in _reasons(self.selection.skipped)
        ]
        chosen = f"encoder on {backend.name} {availability.version} ({availability.devices[0]})"
        said = f"{chosen} in {self.precision}: {self._why}"
        return (*skipped, said, *self._elsewhere.values(), *cache_warnings(self.cache))

    @property
    def warnings(self) -> tuple[str, ...]:
        """A card in this machine that ``auto`` does not compute on, and why. Empty if all is well,
        and where an engine was named: then it runs, or it was an error.
        """
        if self._asked.backend != "auto" or self.selection.backend.on_gpu:
            return ()
        cards = " and ".join(device.name for device in cuda_devices())
        if not cards:
            return ()
        on_card = [entry for entry in self.selection.skipped if entry.backend.on_gpu]
        why = "; ".join(f"{names}: {why}" for names, why in _reasons(on_card))
        return (f"{cards} is not used, the encoder runs on the CPU ({why})",)

    def encoder(self, precision: Precision | None = None) -> Engine:
        """Compile the encoder, in another precision than the chosen one if need be. The caller
        closes it. Raises EngineError, also if the bundle has no graph for float16.

        With ``auto`` and the chosen precision, an engine on a card that cannot be made, for want of
        memory or of a kernel, is left for the next backend, which :attr:`warnings` tells.
        """
        while True:
            try:
                wanted = precision or self.precision
                return self._create(ENCODER_FILE, self._bundle.encoder, wanted)
            except EngineError as error:
                backend = self.selection.backend
                if precision or self._asked.backend != "auto" or not backend.on_gpu:
                    raise
                self._failed[backend.name] = str(error)
                self._choose()

    def head(self, name: str) -> Engine:
        """Compile the head called ``name``, in :meth:`head_precision`. The caller closes it.

        One that the backend's compiler does not build for this card goes to the next backend that
        can run, also if the backend was named: :attr:`notes` tell. Raises EngineError.
        """
        for head in self._bundle.heads:
            if head.name == name:
                return self._small(head.file, head.model, self.head_precision(head))
        known = ", ".join(head.name for head in self._bundle.heads) or "none"
        raise UsageError(f"bundle {self._bundle.path} has no head {name!r}; it has {known}")

    def head_precision(self, head: HeadSpec) -> Precision:
        """float16 beside an encoder in float16 if the bundle has such a graph, else float32.

        Heads cost microseconds a tile and turn features into the answer: no engine reduces their
        float32 graph further.
        """
        reduced = self.precision == "float16" and head.model.float16 is not None
        return "float16" if reduced else "float32"

    def pooling(self, pooling: PoolingSpec) -> Engine:
        """Compile a head's pooling graph, in float32, as :meth:`head`. The caller closes it. Raises
        EngineError."""
        return self._small(pooling.file, pooling.model, "float32")

    def _small(self, file: str, spec: ModelSpec, precision: Precision) -> Engine:
        """The engine of a graph that costs microseconds a tile wherever it runs."""
        backend = self.selection.backend
        try:
            return self._create(file, spec, precision)
        except NotBuiltError as error:
            failed = {**self._failed, backend.name: str(error)}
            other = choose(replace(self._asked, backend="auto", precision="float32"), failed)
            runs, here = other.backend, other.availability
            self._elsewhere[file] = (
                f"{spec.name} on {runs.name} {here.version} ({here.devices[0]}) in float32: {error}"
            )
            return runs.create(
                self._bundle.graph(file),
                spec,
                self.options,
                "float32",
                self.cache,
                progress=self._progress,
            )

    def _create(self, file: str, spec: ModelSpec, precision: Precision) -> Engine:
        """The engine of the float32 graph ``file``, or of its half-precision form, whose hash the
        engine's spec then carries."""
        if precision == "float16":
            if spec.float16 is None:
                raise EngineUnavailableError(
                    f"the bundle {self._bundle.path} has no float16 graph of {spec.name}; use "
                    "another --precision, or export it again (MODEL_CARD.md says if it cannot be)"
                )
            half = spec.float16
            file = half.file
            spec = replace(spec, onnx_sha256=half.onnx_sha256, compiled=half.compiled)
        backend, model = self.selection.backend, self._bundle.graph(file)
        return backend.create(
            model, spec, self.options, precision, self.cache, progress=self._progress
        )

    def _choose(self) -> None:
        while True:
            self.selection = choose(self._asked, self._failed)
            self._decision = self.cache.decision(self.key) if self.cache is not None else None
            if not (why := self._ruled_out()):
                break
            self._failed[self.selection.backend.name] = why
        self.precision, self._why = self._choose_precision()
        self.options = self._completed()

    def _ruled_out(self) -> str:
        """Why `build` found that a card's engine cannot run this bundle, which ``auto`` then leaves
        to the next; empty if it can, or was named.
        """
        named = self._asked.backend != "auto" or self._asked.precision != "auto"
        decision = self._decision or {}
        if named or not self.selection.backend.on_gpu or decision.get("precision"):
            return ""
        return str(decision.get("refused") or "")

    def _choose_precision(self) -> tuple[Precision, str]:
        if self._asked.precision != "auto":
            return self._asked.precision, "as asked for"
        availability = self.selection.availability
        if len(availability.precisions) == 1:
            return availability.precisions[0], "the only one here"
        decision = self._decision
        if decision is None or "precision" not in decision:
            return "float32", "pathgene-rt build has not measured this bundle on this machine"
        for precision in availability.precisions:
            if precision == decision.get("precision"):
                return precision, "the fastest within the limits, found by pathgene-rt build"
        return "float32", "pathgene-rt build found no precision within the limits; see verify"

    def _completed(self) -> EngineOptions:
        """The options with what they leave open as `build` found it for this precision here."""
        decision = self._decision or {}
        found = decision if decision.get("precision") == self.precision else {}
        batch, in_flight = found.get("batch"), found.get("in_flight")
        usual = self.selection.availability.usual_batch
        return replace(
            self._asked,
            batch=self._asked.batch or (batch if isinstance(batch, int) else usual),
            in_flight=self._asked.in_flight
            or (in_flight if isinstance(in_flight, int) else DEFAULT_IN_FLIGHT),
            # Also for another precision than the one decided on: its engines were built so, too.
            tensorrt=self._asked.tensorrt or TensorRtOptions.of_record(decision.get("tensorrt")),
        )


def _reasons(skipped: Iterable[Skipped]) -> Iterator[tuple[str, str]]:
    """(names, why) of backends that do not run, those with one reason together."""
    names: dict[str, list[str]] = {}
    for entry in skipped:
        names.setdefault(entry.why, []).append(entry.name)
    return ((", ".join(known), why) for why, known in names.items())


def decision_key(bundle: Bundle, backend: str, availability: Availability) -> DecisionKey:
    """Under which key `build` keeps the precision it found for ``bundle`` on ``backend``."""
    return DecisionKey(
        product=package_version("pathgene-rt"),
        bundle_sha256=bundle.sha256,
        machine=fingerprint(availability.devices, availability.precisions),
        backend=backend,
        version=availability.version,
    )
