"""Open ONNX files with onnxruntime: the same options everywhere, and ConfigError for what is none."""

import os
from typing import Any

from mmray.errors import ConfigError

CUDA = "CUDAExecutionProvider"
LACKING = "this onnxruntime has no CUDA and works on the CPU: pip install 'mmray[gpu]'"


def has_cuda() -> bool:
    """Tell whether this onnxruntime is one for GPUs."""
    import onnxruntime

    return CUDA in onnxruntime.get_available_providers()


def session(path: str, device: str) -> Any:
    """Return onnxruntime's session for a file, on ``device`` (cpu, cuda:0).

    An onnxruntime without CUDA works on the CPU, whatever ``device`` says: see ``has_cuda``. ConfigError where it is no
    ONNX file, or CUDA does not start.
    """
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import (
        Fail,
        InvalidArgument,
        InvalidGraph,
        InvalidProtobuf,
        NoSuchFile,
    )

    providers: list[Any] = ["CPUExecutionProvider"]
    on_gpu = device.startswith("cuda") and has_cuda()
    if on_gpu:
        onnxruntime.preload_dlls()  # out of the packages that torch brings, where torch is not imported yet
        # TF32 would round float32 to 10 bits.
        providers = [(CUDA, {"device_id": int(device.partition(":")[2] or 0), "use_tf32": 0})]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        found = onnxruntime.InferenceSession(path, options, providers=providers)
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
        raise ConfigError(f"{path}: is not an ONNX file that onnxruntime can open: {error}") from error
    # Where CUDA's libraries do not load, onnxruntime goes on with the CPU and only logs it.
    if on_gpu and CUDA not in found.get_providers():
        raise ConfigError(f"{path}: onnxruntime could not start CUDA; `mmray doctor` says what is missing")
    return found
