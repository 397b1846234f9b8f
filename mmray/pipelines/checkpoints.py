"""``mmray models``: list, pull and verify checkpoints; make tiny random ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmray.errors import ConfigError
from mmray.models import pull


def run(action: str, names: Sequence[str], into: str | None, seed: int) -> tuple[int, dict[str, Any]]:
    """Do one of list, pull, verify and make-tiny; returns exit code and result."""
    if action == "list":
        return 0, {"models": pull.listing()}
    if action == "verify":
        checked = [{"name": name, "ok": ok, "detail": detail} for name, ok, detail in pull.verify()]
        return int(not all(one["ok"] for one in checked)), {"ok": all(one["ok"] for one in checked), "models": checked}
    if action == "pull":
        if not names:
            raise ConfigError("models pull: name at least one model; `mmray models list` shows them")
        return 0, {"pulled": pull.pull(list(names), into)}
    if len(names) != 1:
        raise ConfigError("models make-tiny: name the folder to make, as in `mmray models make-tiny DIR`")
    from mmray.models.tiny import make_tiny

    made = make_tiny(Path(names[0]), seed)
    return 0, {"folder": names[0], "seed": seed, "made": [str(path) for path in made], "weights": f"random:{seed}"}
