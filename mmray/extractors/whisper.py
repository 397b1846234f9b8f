"""Speech to text: what is said, when, in which language.

Source: Radford et al. 2022, Robust Speech Recognition via Large-Scale Weak Supervision (Whisper); Silero Team 2024,
Silero VAD. Weights: openai/whisper-small unless another is named, Apache-2.0; silero_vad, MIT.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from mmray.config import nearest
from mmray.errors import ConfigError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Pooling, Precision
from mmray.models import hub
from mmray.models.slices import Slice, slices
from mmray.models.transcript import Said
from mmray.specs import AudioSpec, Rows, Wave

RATE_HZ = 16_000
LONGEST_S = 30.0  # what the network hears at once
LEAST_OVERLAP_S = 0.5  # a pause is looked for in what two windows share
# Times of segments are right to within about half a second: a segment that keeps that far from all speech is invented.
NEAR = RATE_HZ // 2
# What decoding needs of generation_config.json, and what it needs for many languages.
NUMBERS = dict.fromkeys(("decoder_start_token_id", "eos_token_id", "no_timestamps_token_id"), int)
TABLES = dict.fromkeys(("lang_to_id", "task_to_id"), dict)

Samples = npt.NDArray[np.float32]
Span = tuple[int, int]


class Speaking(Protocol):
    """What transcribes sounds of at most 30 s, in one language or in those that it finds."""

    def __call__(self, sounds: Sequence[Samples]) -> list[list[Said]]:
        """Return the segments of each sound in order of time."""

    def speaking(self, language: str) -> Self:
        """Return it for another language, with the same network; ConfigError for one that it does not know."""


class Overlapping(AudioSpec):
    """Windows that overlap; where sound fills one, there is a next: from its own samples each knows if it is the last.

    (Of AudioSpec's windows a full one may be the last or not, and the seam with the next hangs on that.)
    """

    def has_window(self, index: int, total: int) -> bool:
        """Tell whether a sound of ``total`` samples has window ``index``."""
        return total >= (index - 1) * self.hop + self.window if index else total > 0


class Whisper(Extractor):
    """One row per segment of the transcript: ``text``, ``language`` (en, de ...), ``avg_logprob``, start and end.

    Windows of 30 s every 25 s share 5 s, and are cut apart at the quietest place there, so that every word is heard
    once and whole; only where nobody pauses for 5 s is a word cut. ``window`` is the window a segment was heard in.
    ``language``: as given, else what each window sounds like most; ``translate``: into English, the column still says
    what is spoken. Decoding is greedy, without temperature fallback. ``avg_logprob`` is openai/whisper's, of one pass
    of decoding (a window, rarely a part of one): the sum over its tokens, times and end included, over their number.
    Times are right to 0.02 s at best; a segment that the model leaves open lasts to the end of what it heard.

    ``gate`` (Silero VAD; null for none): a window without 0.25 s of speech is not transcribed and a segment more than
    0.5 s from any speech is dropped, for Whisper hears words in rain. So silence, music that nobody sings to, and sound
    of 1 or 160 samples give no row, and are ok; without the gate they may give an invented one. Samples that are not
    numbers count as 0 when decoded, and make the sample partial. ``backend: faster_whisper`` (pip install
    'mmray[faster-whisper]') reads a CTranslate2 folder and pads short sound as that library does: texts are the same
    but for close calls.

    Skipped: no_audio. Failed: what decoding the sound says (empty for 0 samples, corrupt, truncated, ...).
    """

    name: ClassVar[str] = "whisper"
    kind: ClassVar[Kind] = Kind.TEXT
    poolings: ClassVar[tuple[Pooling, ...]] = ()
    checkpoint = "model"
    companions: ClassVar[dict[str, frozenset[str]]] = {"gate": frozenset()}
    cpu_items_per_s: ClassVar[float] = 0.1

    sound: Overlapping = Overlapping(rate_hz=RATE_HZ, window_s=LONGEST_S, hop_s=25)
    model: str = "openai/whisper-small"
    gate: str | None = "silero_vad"
    language: str | None = None
    translate: bool = False
    backend: Literal["transformers", "faster_whisper"] = "transformers"
    precision: Precision = "float32"
    batch_size: int = Field(8, ge=1, le=4096)
    pooling: tuple[Pooling, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        spec = self.sound
        if spec.rate_hz != RATE_HZ or spec.tail != "pad":
            raise ValueError(f"whisper hears sound at rate_hz {RATE_HZ}, with tail: pad")
        if not spec.window_s <= LONGEST_S or not spec.window_s / 2 <= spec.hop_s <= spec.window_s - LEAST_OVERLAP_S:
            raise ValueError(
                f"window_s is at most {LONGEST_S:g}, hop_s at least half of it and at most {LEAST_OVERLAP_S} s less"
            )
        return self

    def resolved(self, path: str) -> Self:
        """Return itself; ConfigError where the folder is no Whisper, or does not know the language."""
        if self.backend == "faster_whisper":
            from mmray.models import faster

            faster.check(path)
            return self
        bands = hub.config(path, "whisper").typed("num_mel_bins", 80)
        about = hub.read_json(file := Path(path) / "generation_config.json")
        many = about.get("is_multilingual", "lang_to_id" in about)
        wanted = {**NUMBERS, **(TABLES if many else {})}
        if absent := [key for key, kind in wanted.items() if not isinstance(about.get(key), kind)]:
            raise ConfigError(f"{file}: lacks {absent[0]}; take the file of the openai/whisper model it was made from")
        if not many and (self.translate or self.language not in (None, "en")):
            raise ConfigError(f"{path}: understands English only: leave language and translate out")
        known = {name.strip("<|>") for name in about.get("lang_to_id", {})}
        if many and self.language is not None and self.language not in known:
            raise ConfigError(f"{path}: has no language {self.language!r}{nearest(self.language, known)}")
        heard = hub.sound_settings(path)
        if (made := heard.typed("feature_size", 80)) != bands:
            raise ConfigError(f"{path}: its preprocessor makes {made} mel bands, and config.json wants {bands}")
        if (longest_s := heard.typed("chunk_length", LONGEST_S)) < self.sound.window_s:
            raise ConfigError(f"{path}: hears {longest_s:g} s at once; set window_s to that at most")
        return self

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load a Whisper folder and the gate; ConfigError where either is damaged or something else."""
        from mmray.models import speech, weights

        assert path is not None
        transcribe = self._transcriber(path, device)
        gate = speech.SpeechGate(str(weights.resolve(self.gate).path)) if self.gate is not None else everything
        return Hearing(self, transcribe, gate)

    def _transcriber(self, path: str, device: str) -> Speaking:
        if self.backend == "faster_whisper":
            from mmray.models.faster import FasterTranscriber

            return FasterTranscriber(path, self.precision, device, self.language, self.translate)
        from mmray.models.transcribe import Transcriber

        return Transcriber(path, self.precision, device, self.language, self.translate)


class Hearing:
    """A Whisper and its gate, loaded."""

    def __init__(self, how: Whisper, transcribe: Speaking, gate: Callable[[Sequence[Samples]], list[list[Span]]]):
        self._how, self._transcribe, self._gate = how, transcribe, gate

    def speaking(self, language: str) -> "Hearing":
        """Return it for another language, with the same network; ConfigError for one that it does not know."""
        return Hearing(self._how, self._transcribe.speaking(language), self._gate)

    def __call__(self, waves: Sequence[Wave]) -> Iterator[Rows]:
        """Waves: float32 in [-1, 1] at 16 kHz, any lengths; one Rows per wave, of any number of segments."""
        spec, size = self._how.sound, self._how.batch_size
        cut = [list(slices(wave, spec.window, spec.hop)) for wave in waves]
        sounds = [piece.samples for pieces in cut for piece in pieces]
        speech_in = self._gate(sounds)
        spoken = [place for place, spans in enumerate(speech_in) if spans]
        said: list[list[Said]] = [[] for _ in sounds]
        for start in range(0, len(spoken), size):
            batch = spoken[start : start + size]
            for place, found in zip(batch, self._transcribe([sounds[place] for place in batch]), strict=True):
                said[place] = [one for one in found if near(one, speech_in[place])]
        rest = iter(said)
        for pieces in cut:
            yield rows([(piece, one) for piece in pieces for one in next(rest)])


def everything(sounds: Sequence[Samples]) -> list[list[Span]]:
    """Take all of every sound for speech: what stands for the gate where there is none."""
    return [[(0, sound.size)] for sound in sounds]


def near(said: Said, spans: Sequence[Span]) -> bool:
    """Tell whether a segment lies within 0.5 s of some span of speech."""
    first, last = said.start_s * RATE_HZ, said.end_s * RATE_HZ
    return any(start - NEAR < last and first < end + NEAR for start, end in spans)


def rows(found: Sequence[tuple[Slice, Said]]) -> Rows:
    """Return one row per segment, with times from the start of the sample."""
    columns = {
        "text": [said.text for _, said in found],
        "language": [said.language for _, said in found],
        "avg_logprob": np.array([said.avg_logprob for _, said in found], np.float32),
    }
    starts = [piece.start / RATE_HZ + said.start_s for piece, said in found]
    ends = [piece.start / RATE_HZ + said.end_s for piece, said in found]
    return Rows([piece.window for piece, _ in found], starts, ends, columns)
