"""The checkpoint behind a head request: our own, or one of an original repository."""

from __future__ import annotations

from pathgene_rt.bundle.spec import Task
from pathgene_rt.errors import CheckpointError, UsageError
from pathgene_rt.export import upstream
from pathgene_rt.export.request import HeadRequest
from pathgene_rt.training.checkpoint import HeadCheckpoint, load_head, read_torch_file
from pathgene_rt.training.heads.base import Head


def read_head(request: HeadRequest) -> tuple[HeadCheckpoint, tuple[str, ...]]:
    """The head of ``request.path`` and what the user should know of it.

    Raises :class:`CheckpointError` for a file that does not hold what the request says, and
    :class:`UsageError` for a request that does not make sense for it.
    """
    if request.architecture is None:
        return _own(request), ()
    document = read_torch_file(request.path)
    if not isinstance(document, dict):
        raise CheckpointError(f"{request.path} holds no state dict; save the model's state_dict()")
    try:
        layout = upstream.read(request.architecture, document, request.config)
    except CheckpointError as error:
        raise CheckpointError(f"{request.path}: {error}") from error
    head = layout.module
    if not isinstance(head, Head):
        raise CheckpointError(
            f"{request.path} is an encoder of {request.architecture} without a classifier; "
            "only a head can be exported as one"
        )
    classes, notes = _classes(request, head)
    return (
        HeadCheckpoint(
            head=head,
            classes=classes,
            task=Task(kind=request.kind or "other", gene=request.gene),
            activation=request.activation or layout.activation,
        ),
        notes,
    )


def _own(request: HeadRequest) -> HeadCheckpoint:
    for name, value in (
        ("config", request.config),
        ("classes", request.classes),
        ("activation", request.activation),
    ):
        if value:
            raise UsageError(
                f"head {request.head_name}: {name} is for a published checkpoint; one of "
                "pathgene-rt train says it itself (or name its architecture)"
            )
    return load_head(request.path)


def _classes(request: HeadRequest, head: Head) -> tuple[tuple[str, ...], tuple[str, ...]]:
    count = head.n_classes
    if request.classes is None:
        names = tuple(f"class {number}" for number in range(count))
        note = (
            f"head {request.head_name} does not say what its {count} classes are; they are called "
            f"{', '.join(names)} until you name them with --classes {request.head_name}=A,B"
        )
        return names, (note,)
    if len(request.classes) != count:
        raise CheckpointError(
            f"head {request.head_name} has {count} logits, but {len(request.classes)} classes are "
            f"named ({', '.join(request.classes)}); name one for each logit, in their order"
        )
    return request.classes, ()
