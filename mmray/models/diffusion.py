"""Pipelines of diffusers from their folders: offline, nothing guessed, no code of the folder's own.

diffusers fills tensors that a checkpoint lacks with random numbers and runs Python files that a folder names; here the
parts are loaded one by one, as any other network is, and such folders are refused.
"""

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from mmray.config import nearest
from mmray.errors import ConfigError, MmrayError
from mmray.models import hub
from mmray.models.clap import TABLES
from mmray.models.tokenizer import Tokenizer
from mmray.models.torch_setup import ensure_torchaudio, quiet

INDEX = "model_index.json"


class Folder:
    """A folder of diffusers: ``pipeline``, and the ``tokenizers`` of its text towers."""

    def __init__(
        self,
        path: str,
        kinds: Collection[str],
        precision: str,
        device: str,
        instead: Mapping[str, str | None] = MappingProxyType({}),
    ) -> None:
        """Load a folder whose pipeline's class is one of ``kinds``.

        ``instead``: parts to load as another class of transformers than the folder says, or to leave out (None).
        ConfigError, naming file and tensor, where it is of another kind or damaged.
        """
        ensure_torchaudio()
        import diffusers
        import transformers

        self.path = path
        self.tokenizers: dict[str, Tokenizer] = {}
        index = hub.read_json(Path(path) / INDEX)
        name = index.typed("_class_name", "")
        if name not in kinds:
            raise ConfigError(f"{path}/{INDEX}: _class_name is {name!r}, not {' or '.join(sorted(kinds))}")
        wanted = {key: _class(path, key, entry) for key, entry in index.items() if isinstance(entry, list)}
        wanted |= {key: kind and getattr(transformers, kind) for key, kind in instead.items() if wanted.get(key)}
        parts: dict[str, Any] = dict.fromkeys(wanted)
        with hushed():
            # Tokenizers last: each is read for its text tower.
            for key in sorted(wanted, key=lambda key: key.startswith("tokenizer")):
                if wanted[key] is not None:
                    parts[key] = self._part(key, wanted[key], parts, precision, device)
            try:
                self.pipeline = _plain(getattr(diffusers, name).from_pretrained(path, local_files_only=True, **parts))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ConfigError(f"{path}: cannot be loaded as {name}: {_said(error)}") from error

    def _part(self, key: str, kind: Any, parts: dict[str, Any], precision: str, device: str) -> Any:
        """Load one part."""
        folder = str(Path(self.path) / key)
        if not Path(folder).is_dir():
            raise ConfigError(f"{folder}: is missing, and {INDEX} names it; copy the whole folder")
        if issubclass(kind, torch.nn.Module):
            return hub.load(kind, folder, precision, device, unread=TABLES)
        if key.startswith("tokenizer"):
            config = parts["text_encoder" + key.removeprefix("tokenizer")].config
            self.tokenizers[key] = Tokenizer(folder, getattr(config, "text_config", config), device)
            self.tokenizers[key].library.split_special_tokens = True
            return self.tokenizers[key].library
        try:
            return kind.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{folder}: cannot be read as {kind.__name__}: {_said(error)}") from error

    def too_long(self, text: str) -> str | None:
        """Say by how much a text is longer than a text tower reads; None where it is not."""
        for tokenizer in self.tokenizers.values():
            if (count := tokenizer.count(text)) > tokenizer.limit:
                return f"has {count} tokens, and {self.path} reads {tokenizer.limit}"
        return None

    def reschedule(self, name: str) -> None:
        """Take another scheduler of diffusers, with the settings of the folder's own."""
        self.pipeline.scheduler = rescheduled(self.pipeline.scheduler, name, self.path)


def rescheduled(own: Any, name: str, path: str) -> Any:
    """Return another scheduler of diffusers, with the settings of a folder's own; ConfigError where it does not fit."""
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    kinds = {kind.__name__: getattr(diffusers, kind.__name__) for kind in [type(own), *own.compatibles]}
    known = {key: kind for key, kind in kinds.items() if issubclass(kind, SchedulerMixin)}  # others lack a package
    if name not in known:
        raise ConfigError(f"scheduler: {name!r} does not fit {path}{nearest(name, known)}")
    with hushed():
        return known[name].from_config(own.config)


def from_picture(pipeline: Any) -> Any:
    """Return the pipeline of the same networks that starts from a picture."""
    from diffusers import AutoPipelineForImage2Image

    with hushed():
        found = AutoPipelineForImage2Image.from_pipe(pipeline)
    return _plain(found)


def finite(values: Any, path: str, precision: str) -> Any:
    """Return values as they are; MmrayError where one of them is no number."""
    if not bool(torch.isfinite(torch.as_tensor(values)).all()):
        advice = "its numbers overflow; take another precision" if precision != "float32" else "its weights are damaged"
        raise MmrayError(f"{path}: gave numbers that are none in {precision}: {advice}")
    return values


def _class(path: str, key: str, entry: list[Any]) -> Any:
    """Return the class that an entry [library, name] of the index names; None where the folder has no such part."""
    import diffusers
    import transformers

    if entry == [None, None]:
        return None
    if len(entry) == 2 and all(isinstance(word, str) for word in entry):
        library, name = entry
        module = {"diffusers": diffusers, "transformers": transformers}.get(library)
        module = module or getattr(diffusers.pipelines, library, None)
        # Feature extractors are called image processors now.
        for known in (name, name.replace("FeatureExtractor", "ImageProcessor")):
            found = getattr(module, known, None)
            if isinstance(found, type):
                return found
    raise ConfigError(f"{path}/{INDEX}: {key} is {entry}, which neither diffusers nor transformers has")


def _plain(pipeline: Any) -> Any:
    """Return a pipeline without progress bar, and without XL's watermark, which depends on a package that is there."""
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline, "watermark"):
        pipeline.watermark = None
    return pipeline


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


@contextmanager
def hushed() -> Iterator[None]:
    """Keep diffusers from progress bars, and from advice to those who call it themselves, for good."""
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with quiet(warnings=False), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of old folders, which it mends itself
        yield
