"""VGGish: a 128-d embedding for every 0.96 s of sound, or AudioSet's 8-bit version of it.

Source: Hershey et al. 2017, CNN architectures for large-scale audio classification. Weights: the checkpoint of
tensorflow/models research/audioset/vggish, or its conversions by torchvggish and torchaudio; Apache-2.0.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

from pydantic import model_validator

from mmray.errors import ConfigError
from mmray.extractors.base import ExtractFn, Extractor, Kind, Precision
from mmray.extractors.sounds import window_rows
from mmray.models import weights
from mmray.specs import AudioSpec, Rows, Wave

RATE_HZ, WINDOW_S = 16_000, 0.975  # 15,600 samples: 96 frames of 25 ms, one every 10 ms
LENGTH_S = 0.96  # what an example stands for
FRAME_HOP = 160  # samples


class Vggish(Extractor):
    """Row k is the sound in [0.96 k, 0.96 k + 0.96) s; an example that the sound fills only in part is dropped.

    The embedding is the network's last layer before any ReLU, as Google's code gives it. ``pca``, a name or path of
    vggish_pca_params, asks for the whitened and quantised embedding of the AudioSet release instead: whole numbers
    0 to 255, cut off, not rounded. Silence has its embedding like any sound; samples that are no numbers count as 0
    and make the sample corrupt. Skipped: no_audio; too_short (no window: under 15,600 samples at 16 kHz). Failed:
    empty (no samples at all) and what else decoding the sound says.
    """

    name: ClassVar[str] = "vggish"
    kind: ClassVar[Kind] = Kind.EMBEDDING
    checkpoint = "weights"
    companions: ClassVar[dict[str, frozenset[str]]] = {"pca": frozenset({".npz", ".pth"})}
    formats: ClassVar[frozenset[str]] = frozenset({".npz", ".pt", ".pth"})
    cpu_items_per_s: ClassVar[float] = 28.0

    sound: AudioSpec = AudioSpec(rate_hz=RATE_HZ, window_s=WINDOW_S, hop_s=LENGTH_S, tail="drop")
    weights: str = "vggish"
    pca: str | None = None
    precision: Precision = "float32"

    @model_validator(mode="after")
    def _examples(self) -> Self:
        if (self.sound.rate_hz, self.sound.window_s) != (RATE_HZ, WINDOW_S) or self.sound.hop % FRAME_HOP:
            raise ValueError(
                f"vggish needs rate_hz: {RATE_HZ}, window_s: {WINDOW_S} and an hop_s of whole hundredths of a second"
            )
        return self

    def resolved(self, path: str) -> Self:
        """Return itself; ConfigError where ``path`` is no kind of file that VGGish comes in."""
        kinds = self.formats | {".safetensors"}
        if Path(path).suffix not in kinds:
            raise ConfigError(f"{path}: is not VGGish, which is one file: {', '.join(sorted(kinds))}")
        return self

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the length of the embedding."""
        del path
        return {"embedding": 128}

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load the network, and the quantiser where it is asked for; ConfigError where a file is another's."""
        import torch

        from mmray.models import mel, vggish

        assert path is not None
        dtype = getattr(torch, self.precision)
        net = vggish.load(Path(path)).to(device, dtype)
        log_mel = mel.LogMel(vggish.MEL, device, torch.float64)
        quantiser: list[torch.Tensor] = []
        if self.pca is not None:
            pca = vggish.load_pca(weights.resolve(self.pca, self.companions["pca"]).path)
            quantiser = [part.to(device) for part in pca]
        hop_frames = self.sound.hop // FRAME_HOP

        @torch.inference_mode()
        def extract(waves: Sequence[Wave]) -> Iterator[Rows]:
            """Waves: float32 in [-1, 1] at 16 kHz, any lengths; one Rows of ``count`` windows per wave, in order."""
            if not waves:
                return
            examples = torch.cat(
                [log_mel.patches(w.samples, w.count, vggish.EXAMPLE_FRAMES, hop_frames) for w in waves]
            )
            found = torch.cat([net(batch.to(dtype)).float() for batch in torch.split(examples, self.batch_size)])
            if quantiser:
                found = vggish.quantised(found, *quantiser)
            for wave, part in zip(waves, torch.split(found.cpu(), [w.count for w in waves]), strict=True):
                yield window_rows(wave, self.sound.hop_s, LENGTH_S, {"embedding": part.numpy()})

        return extract
