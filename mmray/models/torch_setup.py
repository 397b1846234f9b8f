"""Make torch and its neighbours usable, once, in every process that loads a model."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager


def ensure_torchaudio() -> None:
    """Import torchaudio; where its native library does not load, import it without.

    The released torchaudio 2.11 wheels need CUDA libraries. On a CPU build of torch their import raises OSError, and
    with it every import of transformers, diffusers and sentence-transformers, which import torchaudio when they find
    it. Only ``forced_align`` and ``rnnt_loss`` need the native part; mmray uses neither.
    """
    if "torchaudio" in sys.modules or importlib.util.find_spec("torchaudio") is None:
        return
    try:
        importlib.import_module("torchaudio")
    except (OSError, ImportError, RuntimeError):
        for module in [m for m in sys.modules if m.partition(".")[0] == "torchaudio"]:
            del sys.modules[module]
        stub = types.ModuleType("torchaudio._extension")
        vars(stub).update(
            _IS_TORCHAUDIO_EXT_AVAILABLE=False,
            _IS_ALIGN_AVAILABLE=False,
            fail_if_no_align=lambda function: function,
            _check_cuda_version=lambda: None,
        )
        sys.modules[stub.__name__] = stub
        importlib.import_module("torchaudio")


def whole_float32() -> None:
    """Keep float32 whole on a GPU.

    torch lets cuDNN round what it convolves to TF32 unless told otherwise: 10 bits, errors of 1e-3.
    """
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def gpu_is_lost() -> bool:
    """Tell whether this process can work on its GPU no more: some errors (an assertion, a wrong address) end that."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


@contextmanager
def quiet(warnings: bool = True) -> Iterator[None]:
    """Keep transformers from drawing its own progress bars over ours while it reads or writes a checkpoint.

    ``warnings`` False: nor does it warn, of tensors that it lacks or does not want; the caller looks at them.
    """
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if not warnings:
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
