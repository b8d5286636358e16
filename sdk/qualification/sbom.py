"""What is installed and which models a bundle has, as a CycloneDX 1.6 bill of materials."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
from importlib.metadata import Distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.errors import MissingExtraError
from pathgene_rt.files import write_bytes
from pathgene_rt.qualification.distributions import (
    ROOT,
    installed,
    requirements,
)

if TYPE_CHECKING:
    from cyclonedx.model.component import Component


def require_cyclonedx() -> None:
    """Raise MissingExtraError unless the extra `sbom` is installed."""
    if importlib.util.find_spec("cyclonedx") is None:
        raise MissingExtraError(
            "a bill of materials needs the package cyclonedx-python-lib; install pathgene-rt[sbom]"
        )


def write_sbom(path: Path, bundle: Bundle | None = None) -> int:
    """Write the bill of materials of this environment, and of the models of the opened ``bundle``,
    to ``path`` as JSON; how many components it has. Raises MissingExtraError, OutputError."""
    document = sbom(bundle)
    write_bytes(path, document.encode())
    return document.count('"bom-ref"')


def sbom(bundle: Bundle | None = None) -> str:
    """The document: pathgene-rt, each installed package with its licence and the hash of its
    RECORD, this Python, and each model of ``bundle`` with the hashes of its graph and weights."""
    require_cyclonedx()
    from cyclonedx.model.bom import Bom
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    found = installed()
    packages = {name: _package(one) for name, one in found.items()}
    root = packages.pop(ROOT)
    bom = Bom()
    bom.metadata.component = root
    bom.components.update(packages.values())
    python = _python()
    bom.components.add(python)
    models = [] if bundle is None else _models(bundle)
    bom.components.update(models)
    bom.register_dependency(root, [python, *models[:1]])
    if models:
        bom.register_dependency(models[0], models[1:])
    known = {**packages, ROOT: root}
    for name, one in found.items():
        wanted = [known[other] for other in requirements(one, extras=False) if other in known]
        bom.register_dependency(known[name], wanted)
    text: str = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(
        indent=2
    )
    return text + "\n"


def _package(one: Distribution) -> Component:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL
    from packaging.utils import canonicalize_name

    name, version = str(one.metadata["Name"]), one.version
    record = one.read_text("RECORD")
    is_root = canonicalize_name(name) == ROOT
    component = Component(
        name=name,
        version=version,
        type=ComponentType.APPLICATION if is_root else ComponentType.LIBRARY,
        bom_ref=f"pkg:{canonicalize_name(name)}@{version}",
        purl=PackageURL("pypi", None, canonicalize_name(name), version),
        description=_stated(one, "Summary"),
    )
    if record is not None:
        digest = hashlib.sha256(record.encode()).hexdigest()
        component.properties.add(_property("record_sha256", digest))
    licence = _stated(one, "License-Expression")
    if licence:
        _license(component, licence, expression=True)
    else:
        _license(component, _classified(one) or _stated(one, "License"))
    return component


def _stated(one: Distribution, field: str) -> str:
    """A field of the package's metadata; empty if it has none."""
    return next(iter(one.metadata.get_all(field) or []), "")


def _classified(one: Distribution) -> str:
    """The licence by the package's classifiers."""
    stated = one.metadata.get_all("Classifier") or []
    named = [line.rpartition(" :: ")[2] for line in stated if line.startswith("License :: ")]
    return "; ".join(named)


def _license(component: Component, text: str, *, expression: bool = False) -> None:
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression

    if expression:
        component.licenses.add(LicenseExpression(text))
    elif text.strip():
        component.licenses.add(DisjunctiveLicense(name=text.strip().splitlines()[0][:200]))


def _python() -> Component:
    from cyclonedx.model.component import Component, ComponentType

    version = platform.python_version()
    return Component(
        name=platform.python_implementation(),
        version=version,
        type=ComponentType.PLATFORM,
        bom_ref=f"python@{version}",
    )


def _models(bundle: Bundle) -> list[Component]:
    """The bundle, then its encoder and heads."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    manifest = bundle.manifest
    whole = Component(
        name=manifest.name,
        version=manifest.version,
        type=ComponentType.DATA,
        bom_ref=f"bundle:{bundle.sha256}",
        description=manifest.intended_use,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=bundle.sha256)],
    )
    _license(whole, manifest.licence)
    models: list[tuple[str, ModelSpec, dict[str, Any]]] = [("encoder", bundle.encoder, {})]
    for head in bundle.heads:
        task = {"task": head.task.kind, "gene": head.task.gene or ""}
        models.append((head.name, head.model, task))
    found = [whole]
    for name, model, more in models:
        component = Component(
            name=name,
            version=manifest.version,
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref=f"model:{bundle.sha256[:16]}:{name}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=model.onnx_sha256)],
        )
        _license(component, manifest.licence)
        facts = {"weights_sha256": model.weights_sha256, "architecture": model.architecture, **more}
        component.properties.update(
            _property(key, str(value)) for key, value in facts.items() if value
        )
        found.append(component)
    return found


def _property(name: str, value: str) -> Any:
    from cyclonedx.model import Property

    return Property(name=f"pathgene-rt:{name}", value=value)
