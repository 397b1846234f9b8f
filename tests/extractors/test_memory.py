"""An actor with one extractor of the real size stays under 3 GB on a CPU (full_size.py has the sizes)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .full_size import HUB


@pytest.mark.slow
@pytest.mark.parametrize("name", HUB)
def test_a_batch_at_the_real_size_stays_under_3_gb(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.extractors.full_size", name, str(tmp_path / name)]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["peak_gb"] < 3, found
