"""Open ONNX files with onnxruntime: the same options everywhere, and ConfigError for what is none."""

import os
from typing import Any

from mmray.errors import ConfigError


def session(path: str, device: str) -> Any:
    """Return onnxruntime's session for a file, on ``device`` (cpu, cuda:0).

    ConfigError where it is no ONNX file, or ``device`` is a GPU that this onnxruntime cannot use.
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
    if device.startswith("cuda"):
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise ConfigError(f"{path}: this onnxruntime has no CUDA: install mmray[gpu], or set gpus_per_actor: 0")
        providers = [("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)})]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        found = onnxruntime.InferenceSession(path, options, providers=providers)
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
        raise ConfigError(f"{path}: is not an ONNX file that onnxruntime can open: {error}") from error
    # Where CUDA's libraries do not load, onnxruntime goes on with the CPU and only logs it.
    if device.startswith("cuda") and "CUDAExecutionProvider" not in found.get_providers():
        raise ConfigError(f"{path}: onnxruntime could not start CUDA; `mmray doctor` says what is missing")
    return found
