"""The backends that there are. Imports nothing, so that the command line's help can list them."""

BACKENDS: tuple[tuple[str, str], ...] = (
    ("tensorrt", "pathgene_rt.engines.tensorrt.backend"),
    ("tensorrt-rtx", "pathgene_rt.engines.tensorrt.rtx_backend"),
    ("onnxruntime-cuda", "pathgene_rt.engines.onnxruntime.cuda_backend"),
    ("onnxruntime-tensorrt", "pathgene_rt.engines.onnxruntime.tensorrt_backend"),
    ("openvino", "pathgene_rt.engines.openvino.backend"),
    ("onnxruntime", "pathgene_rt.engines.onnxruntime.backend"),
)
"""(name, module) in the order in which ``auto`` prefers them. A new backend is a folder of its own
and a line here: its module's ``BACKEND`` states the rest
(:class:`~pathgene_rt.engines.backend.Backend`)."""
