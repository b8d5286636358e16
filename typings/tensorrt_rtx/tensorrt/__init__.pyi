# What runs in TensorRT is to run in TensorRT for RTX: the same source is checked against both.
from tensorrt_rtx import *  # noqa: F403
from tensorrt_rtx import __version__ as __version__
