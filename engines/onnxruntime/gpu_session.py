"""Sessions on an NVIDIA card: their settings, and the proof that they compute there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.engines.onnxruntime.gpu_providers import CUDA
from pathgene_rt.engines.onnxruntime.runner import native_errors, session_options
from pathgene_rt.errors import EngineUnavailableError

Provider = tuple[str, dict[str, str]]
"""An execution provider's name and options."""

_CPU = "CPUExecutionProvider"

# fmt: off
_SHAPE_OPERATORS = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal",
    "Expand", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual",
    "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range", "ReduceMax", "ReduceMin",
    "ReduceProd", "ReduceSum", "Reshape", "Shape", "Size", "Slice", "Sqrt", "Squeeze", "Sub",
    "Unsqueeze", "Where",
})
# fmt: on
"""What ONNX Runtime computes on the CPU where the numbers are sizes of tensors: there they are
needed. All of them have CUDA kernels for floating point, so on the CPU they are nothing else."""

_NAMED = 3


def cuda_provider(
    device: int, *, stream: int = 0, memory: int = 0, graphs: bool = False
) -> Provider:
    """The CUDA provider on card ``device``, for work on the stream of this handle.

    Without ``stream`` it makes streams of its own; ``memory`` bytes are the most that it takes, 0
    leaves that open. ``graphs`` lets it replay calls as CUDA graphs.
    """
    options = {
        "device_id": str(device),
        # Nothing beyond what a call needs: others compute on the card, too.
        "arena_extend_strategy": "kSameAsRequested",
        # EXHAUSTIVE tries every algorithm anew for each number of tiles.
        "cudnn_conv_algo_search": "HEURISTIC",
        # TF32 has the mantissa of float16: float32 means what it says.
        "use_tf32": "0",
    }
    if stream:
        options["user_compute_stream"] = str(stream)
    if memory:
        options["gpu_mem_limit"] = str(memory)
    if graphs:
        options["enable_cuda_graph"] = "1"
    return CUDA, options


def open_gpu_session(
    model: bytes, spec: ModelSpec, backend: str, providers: Sequence[Provider]
) -> Any:
    """An ``onnxruntime.InferenceSession`` on the first of ``providers``, the others for what it
    lacks.

    ONNX Runtime's own switch, ``session.disable_cpu_ep_fallback``, would also refuse graphs of
    which it prefers the sizes of tensors on the CPU, so what runs there is looked at here. Raises
    EngineUnavailableError if the session is without the first provider, or if part of an encoder
    would be computed on the CPU; EngineError.
    """
    with native_errors(f"compile {spec.name}", backend):
        from pathgene_rt.engines.onnxruntime.api import ort as onnxruntime

        onnxruntime.disable_telemetry_events()
        options = session_options()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # Kept for each size of bag that ever came.
        options.enable_mem_pattern = spec.preprocess is not None
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        # With its fallback, a call that fails on the GPU would be repeated on the CPU.
        session = onnxruntime.InferenceSession(
            model, options, providers=list(providers), enable_fallback=0
        )
    wanted, found = providers[0][0], session.get_providers()
    if wanted not in found:
        raise EngineUnavailableError(
            f"engine {backend}: ONNX Runtime made the session of {spec.name} without {wanted} (on "
            f"{', '.join(found)}); pathgene-rt doctor says what is missing"
        )
    if spec.preprocess is not None and (left := cpu_operators(session)):
        raise EngineUnavailableError(
            f"engine {backend}: ONNX Runtime has no CUDA kernel for {len(left)} operators of "
            f"{spec.name} ({listed(left)}); use --engine openvino"
        )
    return session


def cpu_operators(session: Any) -> tuple[str, ...]:
    """Operators, with their nodes, that ``session`` computes on the CPU, but for sizes of
    tensors."""
    return tuple(
        f"{node.op_type} {node.name}"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == _CPU
        for node in part.get_nodes()
        if node.domain not in ("", "ai.onnx") or node.op_type not in _SHAPE_OPERATORS
    )


def listed(operators: Sequence[str]) -> str:
    """The first few of ``operators`` in one line."""
    more = len(operators) - _NAMED
    return ", ".join(operators[:_NAMED]) + (f" and {more} more" if more > 0 else "")
