"""Speech to text with Whisper: greedy, with times, one window of at most 30 s at a time, several windows at once.

Source: Radford et al. 2022, Robust Speech Recognition via Large-Scale Weak Supervision; segments are cut at timestamps
and passes go on as in openai/whisper (MIT) and transformers.WhisperForConditionalGeneration.generate.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmray.config import nearest
from mmray.errors import ConfigError
from mmray.models import hub
from mmray.models.torch_setup import ensure_torchaudio
from mmray.models.transcript import Part, Said, parts

RATE_HZ = 16_000
FRAME = 160  # samples of a spectrogram frame
STAMPS_PER_S, STAMP_FRAMES = 50, 2  # what a timestamp token counts
# How often a window is gone on with from its last finished segment, against a model that finishes next to nothing.
MOST_PASSES = 8

Samples = npt.NDArray[np.float32]


class Transcriber:
    """A Whisper folder, loaded; ``language`` None: detected for each window."""

    def __init__(self, path: str, precision: str, device: str, language: str | None, translate: bool) -> None:
        ensure_torchaudio()
        from transformers import WhisperFeatureExtractor, WhisperTokenizer

        self._net = hub.load("WhisperForConditionalGeneration", path, precision, device)
        try:
            self._spectrogram = WhisperFeatureExtractor.from_pretrained(path, local_files_only=True)
            self._words = WhisperTokenizer.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path}: its tokenizer or preprocessor cannot be read: {error}") from error
        self._spectrogram.dither = 0.0  # noise for training
        self._device = device
        about = self._net.generation_config
        self._end, self._first_stamp = int(about.eos_token_id), int(about.no_timestamps_token_id) + 1
        if self._words.eos_token_id != self._end:  # without its files the library makes an empty one
            raise ConfigError(f"{path}: its tokenizer is missing or another model's: tokenizer.json")
        self._start = int(about.decoder_start_token_id)
        self._languages = {number: name.strip("<|>") for name, number in getattr(about, "lang_to_id", {}).items()}
        self._many = bool(getattr(about, "is_multilingual", self._languages))
        self._task = about.task_to_id["translate" if translate else "transcribe"] if self._many else None
        self._language = language
        self._rules = _rules(about, 3 if self._many else 1, device)

    def speaking(self, language: str) -> Self:
        """Return it for another language, with the same network; ConfigError for one that it does not know."""
        known = list(self._languages.values()) if self._many else ["en"]
        if language not in known:
            raise ConfigError(f"there is no language {language!r} here{nearest(language, known)}")
        other = copy(self)
        other._language = language
        return other

    @torch.inference_mode()
    def __call__(self, sounds: Sequence[Samples]) -> list[list[Said]]:
        """Transcribe sounds of 1 to 30 s x 16,000 samples, all at once; for each its segments in order of time."""
        features = self._features(sounds)
        said: list[list[Said]] = [[] for _ in sounds]
        going = dict.fromkeys(range(len(sounds)), 0)  # sound -> the frame that its next pass begins at
        prompts: Tensor | None = None
        for _ in range(MOST_PASSES):
            if not (places := list(going)):
                break
            encoded = self._net.model.encoder(self._from(features, going)).last_hidden_state
            prompts = self._prompts(encoded) if prompts is None else prompts
            told = self._greedy(encoded, prompts[places])
            for place, (tokens, chance) in zip(places, told, strict=True):
                found, stamp = parts(tokens, self._first_stamp)
                language = self._languages.get(int(prompts[place, -2]), "en") if self._many else "en"
                begin, size = going.pop(place), sounds[place].size
                at_s, length_s = begin * FRAME / RATE_HZ, size / RATE_HZ
                said[place] += [one for part in found if (one := self._said(part, at_s, length_s, language, chance))]
                if stamp and (begin + stamp * STAMP_FRAMES) * FRAME < size:
                    going[place] = begin + stamp * STAMP_FRAMES
        return said

    def _features(self, sounds: Sequence[Samples]) -> Tensor:
        """Return the log-mel spectrograms of sounds padded to 30 s: (n, mels, 3000)."""
        found = self._spectrogram(list(sounds), sampling_rate=RATE_HZ, return_tensors="pt", device=self._device)
        features: Tensor = found.input_features.to(self._device, self._net.dtype)
        return features

    def _from(self, features: Tensor, going: dict[int, int]) -> Tensor:
        """Return the spectrograms of the sounds that are gone on with, from a frame each, zeros behind their end."""
        moved = torch.zeros((len(going), *features.shape[1:]), dtype=features.dtype, device=features.device)
        for row, (place, frame) in zip(moved, going.items(), strict=True):
            row[:, : features.shape[2] - frame] = features[place, :, frame:]
        return moved

    def _prompts(self, encoded: Tensor) -> Tensor:
        """Return the tokens that decoding starts with, (n, 1 or 3): start, and for many languages language and task."""
        start = torch.full((len(encoded), 1), self._start, device=encoded.device)
        if self._task is None:
            return start
        if self._language is None:
            logits = self._net(encoder_outputs=(encoded,), decoder_input_ids=start, use_cache=False).logits[:, -1]
            known = torch.tensor(list(self._languages), device=encoded.device)
            language = known[logits[:, known].argmax(-1)][:, None]
        else:
            number = next(number for number, name in self._languages.items() if name == self._language)
            language = torch.full_like(start, number)
        return torch.cat([start, language, torch.full_like(start, self._task)], dim=1)

    def _greedy(self, encoded: Tensor, prompts: Tensor) -> list[tuple[list[int], float]]:
        """Return for each row the most likely tokens, one after the other, without the end; and their avg_logprob."""
        ids, cache = prompts, None
        done = torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
        total = torch.zeros(len(prompts), dtype=torch.float64, device=prompts.device)
        for _ in range(self._net.config.max_target_positions - prompts.shape[1]):
            told = self._net(
                encoder_outputs=(encoded,),
                decoder_input_ids=ids if cache is None else ids[:, -1:],
                past_key_values=cache,
                use_cache=True,
            )
            cache, scores = told.past_key_values, told.logits[:, -1].float()
            for rule in self._rules:
                scores = rule(ids, scores)
            best, token = torch.log_softmax(scores, -1).max(-1)
            total += torch.where(done, 0.0, best.double())
            ids = torch.cat([ids, torch.where(done, self._end, token)[:, None]], dim=1)
            done |= token == self._end
            if done.all():
                break
        rows = ids[:, prompts.shape[1] :].tolist()
        told_rows = [row[: row.index(self._end)] if self._end in row else row for row in rows]
        return [(row, sums / (len(row) + 1)) for row, sums in zip(told_rows, total.tolist(), strict=True)]

    def _said(self, part: Part, at_s: float, length_s: float, language: str, chance: float) -> Said | None:
        """Return a segment with its text and times in the sound; None where it is empty or behind the sound's end."""
        text = self._words.decode([token for token in part.tokens if token < self._end], skip_special_tokens=True)
        start_s = at_s + part.start / STAMPS_PER_S
        end_s = length_s if part.end is None else min(length_s, at_s + part.end / STAMPS_PER_S)
        return Said(start_s, end_s, text.strip(), language, chance) if text.strip() and start_s < end_s else None


def _rules(about: Any, begin: int, device: str) -> list[Any]:
    """Return what decoding may not say: suppressed tokens, and timestamps out of order."""
    from transformers.generation.logits_process import (
        SuppressTokensAtBeginLogitsProcessor,
        SuppressTokensLogitsProcessor,
        WhisperTimeStampLogitsProcessor,
    )

    rules: list[Any] = []
    if about.begin_suppress_tokens:
        rules.append(SuppressTokensAtBeginLogitsProcessor(about.begin_suppress_tokens, begin, device=device))
    if about.suppress_tokens:
        rules.append(SuppressTokensLogitsProcessor(about.suppress_tokens, device=device))
    return [*rules, WhisperTimeStampLogitsProcessor(about, begin)]
