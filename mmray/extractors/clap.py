"""CLAP: sounds or texts in one space, where a sound lies near the words that describe it.

Source: Wu et al. 2023, Large-scale contrastive language-audio pretraining. Weights: laion/clap-htsat-unfused (512-d,
Apache-2.0) unless another is named.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import model_validator

from mmray.errors import ConfigError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Precision
from mmray.extractors.sounds import window_rows
from mmray.extractors.texts import embedded, with_text_source
from mmray.models import hub
from mmray.models.tokenizer import by_length
from mmray.models.vectors import Vectors
from mmray.specs import AnySpec, AudioSpec, Rows, TextSpec, Wave

DEFAULT_RATE_HZ = 48_000


class Clap(Extractor):
    """Embeddings have unit length, so that a dot product is the cosine of two of them.

    ``modality: audio`` embeds windows of 10 s, one row each, so that the library never cuts a longer sound at random.
    The rest of a sound, be it 10 ms, is repeated to 10 s as far as it goes (or padded: the folder says);
    silence has its embedding like any sound, samples that are no numbers count as 0 and make the sample corrupt.
    ``modality: text`` embeds texts of any script, one row per chunk of at most 512 tokens, cut between words.
    Skipped: no_audio, too_short (audio of a sample or two, gone in resampling); no_text (text, empty or white space).
    Failed: empty (no samples at all) and what else decoding says.
    """

    name: ClassVar[str] = "clap"
    kind: ClassVar[Kind] = Kind.EMBEDDING
    checkpoint = "model"
    version: ClassVar[int] = 2  # 2: special tokens in a text are words
    cpu_items_per_s: ClassVar[float] = 2.3  # windows of 10 s, of which the spectrograms take 4 %; texts 30

    modality: Literal["audio", "text"] = "audio"
    sound: AudioSpec = AudioSpec(rate_hz=DEFAULT_RATE_HZ, window_s=10, hop_s=10)
    model: str = "laion/clap-htsat-unfused"
    precision: Precision = "float32"

    @model_validator(mode="before")
    @classmethod
    def _texts_from_text(cls, values: Any) -> Any:
        return with_text_source(values)

    @property
    def specs(self) -> tuple[AnySpec, ...]:
        """Return the sound, or the text."""
        return (self.sound,) if self.modality == "audio" else (TextSpec(),)

    def resolved(self, path: str) -> Self:
        """Return a copy whose sound has the rate the checkpoint takes; ConfigError where another was asked for."""
        settings = hub.config(path, "clap")
        if self.modality == "text":
            return self
        about = hub.sound_settings(path)
        rate_hz, longest_s = about.typed("sampling_rate", DEFAULT_RATE_HZ), about.typed("max_length_s", 10.0)
        if self.sound.rate_hz not in (rate_hz, DEFAULT_RATE_HZ):
            raise ConfigError(f"clap: rate_hz is {self.sound.rate_hz}, and {path} takes sound at {rate_hz}")
        if self.sound.window_s > longest_s:
            raise ConfigError(f"clap: window_s is {self.sound.window_s:g}, and {path} takes at most {longest_s:g} s")
        fused = settings.part("audio_config").typed("enable_fusion", False)
        if fused != (about.get("truncation", "fusion") == "fusion"):
            raise ConfigError(
                f"{path}: config.json says enable_fusion: {fused}, and its feature extractor has "
                f"truncation: {about.get('truncation')}; one of them belongs to another checkpoint"
            )
        return self.model_copy(update={"sound": self.sound.model_copy(update={"rate_hz": rate_hz})})

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the length of the embedding, from the folder's configuration."""
        return {"embedding": hub.config(path or "", "clap").typed("projection_dim", 512)}

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load one tower of a ClapModel folder, offline."""
        assert path is not None
        self.resolved(path)
        return self._sounds(device, path) if self.modality == "audio" else self._texts(device, path)

    def _sounds(self, device: str, path: str) -> ExtractFn:
        from mmray.models.clap import SoundTower

        tower = SoundTower(path, self.precision, device)

        def extract(waves: Sequence[Wave]) -> Iterator[Rows]:
            """Waves: float32 in [-1, 1], any lengths; one Rows of ``count`` windows per wave, in order."""
            spec = self.sound
            clips = [
                wave.samples[start : start + spec.window]
                for wave in waves
                for start in range(0, wave.count * spec.hop, spec.hop)
            ]
            batches = [clips[start : start + self.batch_size] for start in range(0, len(clips), self.batch_size)]
            vectors = [vector for batch in batches for vector in tower(batch)]
            done = 0
            for wave in waves:
                part = np.stack(vectors[done : done + wave.count])
                done += wave.count
                yield window_rows(wave, spec.hop_s, spec.window_s, {"embedding": part})

        return extract

    def _texts(self, device: str, path: str) -> ExtractFn:
        from mmray.models.clap import TextTower

        tower = TextTower(path, self.precision, device)

        def embed(pieces: list[str]) -> Vectors:
            vectors = np.zeros((len(pieces), tower.dim), np.float32)
            for batch in by_length([len(piece) for piece in pieces], self.batch_size):
                vectors[batch] = tower([pieces[place] for place in batch])
            return vectors

        return lambda items: embedded(items, tower.tokenizer.count, tower.tokenizer.limit, embed)
