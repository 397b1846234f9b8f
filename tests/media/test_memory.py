import json
import subprocess
import sys

import numpy as np

from tests.media.making import grey, make

PEAK = """
import json, resource, sys
from mmray.media.decode import decode
from mmray.specs import AudioSpec, FrameSpec
specs = [FrameSpec(fps=5, side_px=32), FrameSpec(every=3, side_px=32)]
specs += [AudioSpec(hop_s=0.48), AudioSpec(window_s=30, hop_s=30)]
items = sum(1 for _ in decode(sys.argv[1], specs))
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, items]))
"""


def peak_mib(uri):
    answer = subprocess.run([sys.executable, "-c", PEAK, uri], capture_output=True, check=True, text=True)
    return json.loads(answer.stdout)


def test_memory_does_not_grow_with_duration(tmp_path):
    one, twenty = (
        make(
            tmp_path / f"{minutes}.mkv", [grey(i, 64, 64) for i in range(300)] * minutes, fps=5, codec="mpeg4",
            options={}, sound=np.zeros((1, 960_000 * minutes), np.float32), sound_codec="pcm_s16le",
        )
        for minutes in (1, 20)
    )  # fmt: skip
    short, few = peak_mib(one)
    long, many = peak_mib(twenty)
    assert many > 15 * few
    # 20 min of sound at 16 kHz would be 73 MiB in float32, its frames 18 MiB at 32 px
    assert long - short < 25
