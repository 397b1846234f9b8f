"""What this machine has and lacks: libraries, devices, memory, disks. Each check says what would mend it.

A check is wrong (``ok`` false) where no run would work; one that is right and has a ``mend`` all the same gives advice.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mmray.models import catalogue, digest, weights
from mmray.pipelines import cluster
from mmray.pipelines.probes import CODECS

# What is imported in one process, side by side with the other groups: torch takes a second, transformers three.
TOGETHER = (("torch", "torchaudio", "transformers"), ("torchvision",), ("av", "onnxruntime", "ray"))
PYTHON = ((3, 11), (3, 13))  # the oldest and the newest of pyproject.toml
SHM = "/dev/shm"  # noqa: S108  # Ray's object store stands there
TIMEOUT_S = 60  # an import from a cold network disk may take a while
GB = 1e9
LOW_MEMORY_BYTES, LOW_DISK_BYTES, LOW_SHM_BYTES = 4 * GB, 5 * GB, 1 * GB

Check = dict[str, Any]
Probed = Mapping[str, dict[str, Any] | str | None]


def checks() -> tuple[list[Check], list[str]]:
    """Return the checks, in the order of reading, and the names of the GPUs that torch sees. Takes some seconds."""
    probed = probes()
    devices = [_device(one) for one in _devices(probed)]
    found = [
        _python(),
        *_torch(probed),
        *_neighbours(probed),
        _av(probed["av"]),
        _onnxruntime(probed["onnxruntime"], bool(devices)),
        _ray(probed["ray"]),
        _memory(),
        _shared_memory(),
        _disk(),
        _hub(),
        _models(),
    ]
    return found, devices


def probes() -> Probed:
    """Import libraries in other processes; returns what each tells, how it failed, or None: not installed."""
    found: dict[str, dict[str, Any] | str | None] = {name: None for group in TOGETHER for name in group}
    here = [[name for name in group if importlib.util.find_spec(name) is not None] for group in TOGETHER]
    with ThreadPoolExecutor(max_workers=len(here)) as pool:
        for told in pool.map(_probed, here):
            found |= told
    return found


def _probed(names: Sequence[str]) -> dict[str, dict[str, Any] | str]:
    """Import libraries one after the other; after one that fails, go on with the next in a new process."""
    found: dict[str, dict[str, Any] | str] = {}
    while left := [name for name in names if name not in found]:
        output, failure = _process(left)
        for line in output.splitlines():
            if line.startswith('{"'):  # libraries may print lines of their own
                found |= json.loads(line)
        if first := next((name for name in left if name not in found), None):
            found[first] = failure or "its import fails"
    return found


def _process(names: Sequence[str]) -> tuple[str, str]:
    """Run probes in a process; returns what it prints, and how it ended where it did not end well."""
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-P", "-m", "mmray.pipelines.probes", *names]
    try:
        done = subprocess.run(  # noqa: S603
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        # In spite of text=True it holds bytes.
        return (error.stdout or b"").decode(errors="replace"), f"could not be imported within {TIMEOUT_S} s"
    if done.returncode < 0:
        return done.stdout, f"its import ends the process (signal {-done.returncode})"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return done.stdout, lines[-1][:160] if lines else ""


def check(name: str, ok: bool, detail: str, mend: str = "") -> Check:
    """Return one check as ``--json`` prints it."""
    return {"name": name, "ok": ok, "detail": detail, "mend": mend}


def _absent(name: str, found: str | None) -> Check:
    """Return the check of a library that is wanted and does not import."""
    return check(
        name, False, found or "not installed", f"pip install --force-reinstall {name}" if found else "pip install mmray"
    )


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    oldest, newest = (".".join(map(str, one)) for one in PYTHON)
    right = PYTHON[0] <= sys.version_info[:2] <= PYTHON[1]
    return check("python", right, version, "" if right else f"use Python {oldest} to {newest}")


def _devices(probed: Probed) -> list[dict[str, Any]]:
    found = probed["torch"]
    return found["devices"] if isinstance(found, dict) else []


def _device(about: dict[str, Any]) -> str:
    return f"{about['name']}, {about['memory_bytes'] / GB:.0f} GB"


def _torch(probed: Probed) -> list[Check]:
    found = probed["torch"]
    if not isinstance(found, dict):
        return [_absent("torch", found)]
    devices = [_device(one) for one in _devices(probed)]
    idle = not devices and Path("/dev/nvidia0").exists()
    why = "an NVIDIA device is here, and this torch does not see it" if idle else "none; models run on the CPU"
    mend = "install the CUDA build of torch that fits the driver (nvidia-smi shows it)" if idle else ""
    return [check("torch", True, found["version"]), check("gpu", True, "; ".join(devices) or why, mend)]


def _neighbours(probed: Probed) -> list[Check]:
    """Check what transformers imports when it finds it, and transformers itself."""
    audio, vision, found = probed["torchaudio"], probed["torchvision"], probed["transformers"]
    rows = []
    if isinstance(audio, dict):
        state = "" if audio["native"] else "; its native part does not load here, mmray goes without"
        rows.append(check("torchaudio", True, audio["version"] + state))
    else:
        absent = "not installed; nothing of mmray needs it"
        rows.append(check("torchaudio", audio is None, audio or absent, "pip uninstall torchaudio" if audio else ""))
    if isinstance(vision, dict):
        rows.append(check("torchvision", True, vision["version"]))
    else:
        mend = "pip uninstall torchvision (mmray does not use it, and broken it stops transformers)"
        rows.append(
            check("torchvision", vision is None, vision or "not installed, and not needed", mend if vision else "")
        )
    if isinstance(found, dict):
        return [*rows, check("transformers", True, found["version"])]
    last = _absent("transformers", found)
    if wrong := [name for name in ("torch", "torchaudio", "torchvision") if isinstance(probed[name], str)]:
        last["mend"] = f"first {' and '.join(wrong)}, above"
    return [*rows, last]


def _av(found: dict[str, Any] | str | None) -> Check:
    if not isinstance(found, dict):
        return _absent("av", found)
    about = f"{found['version']} with FFmpeg {found['ffmpeg']}"
    if found["missing"]:
        mend = "pip install --force-reinstall av (its wheels bring an FFmpeg with all of them)"
        return check("av", False, f"{about} cannot decode {', '.join(found['missing'])}", mend)
    return check("av", True, f"{about}; decodes {', '.join(CODECS[:5])}, {', '.join(CODECS[8:12])} ...")


def _onnxruntime(found: dict[str, Any] | str | None, gpu: bool) -> Check:
    if not isinstance(found, dict):
        return _absent("onnxruntime", found)
    providers = [name.removesuffix("ExecutionProvider") for name in found["providers"]]
    idle = gpu and "CUDA" not in providers
    return check(
        "onnxruntime", True, f"{found['version']} ({', '.join(providers)})", "pip install 'mmray[gpu]'" if idle else ""
    )


def _ray(found: dict[str, Any] | str | None) -> Check:
    if not isinstance(found, dict):
        return _absent("ray", found)
    address = os.environ.get("RAY_ADDRESS")
    where = f"runs go to the cluster at {address}" if address else f"runs use the {cluster.cores()} core(s) here"
    return check("ray", True, f"{found['version']}; {where}")


def _memory() -> Check:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total, free = min(total, int(text)), min(free, int(text))
    mend = "close other programs, or run fewer actors (resources: {actors: 1})" if free < LOW_MEMORY_BYTES else ""
    return check("memory", True, f"{free / GB:.1f} of {total / GB:.1f} GB are free", mend)


def _shared_memory() -> Check:
    folder = Path(SHM)
    if not folder.is_dir():
        return check(SHM, True, "there is none; Ray's object store goes to /tmp, which is slower")
    free = shutil.disk_usage(folder).free
    mend = "give the container more, as in docker run --shm-size=4g" if free < LOW_SHM_BYTES else ""
    return check(SHM, True, f"{free / GB:.1f} GB are free for Ray's object store", mend)


def _disk() -> Check:
    home = digest.home()
    place = next(folder for folder in [home, *home.absolute().parents] if folder.is_dir())
    free = shutil.disk_usage(place).free
    detail = f"{free / GB:.0f} GB are free at {home} (MMRAY_HOME)"
    if not os.access(place, os.W_OK):
        return check("disk", True, f"{detail}, which cannot be written", "set MMRAY_HOME to a folder of yours")
    return check("disk", True, detail, "set MMRAY_HOME to a larger disk" if free < LOW_DISK_BYTES else "")


def _hub() -> Check:
    try:
        from huggingface_hub import constants
    except ImportError as error:
        return _absent("huggingface_hub", str(error))
    if constants.HF_HUB_OFFLINE:
        mend = "unset HF_HUB_OFFLINE to pull models"
        return check("hub", True, f"offline (HF_HUB_OFFLINE); cache {constants.HF_HUB_CACHE}", mend)
    return check("hub", True, f"asked by `mmray models pull` alone, never by a run; cache {constants.HF_HUB_CACHE}")


def _models() -> Check:
    known = catalogue.models()
    here = [place for model in known if (place := weights.locate(model.name)) is not None]
    size_bytes = sum(file.stat().st_size for place in here for file in place.rglob("*") if file.is_file())
    return check("models", True, f"{len(here)} of {len(known)} are here ({size_bytes / GB:.2f} GB)")
