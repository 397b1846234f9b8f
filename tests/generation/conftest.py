"""Tiny checkpoints for every test of this room, each written when it is first asked for."""

from collections.abc import Callable

import pytest

from mmray.models.tiny import make_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[[str], str]:
    """Return the folder of a tiny checkpoint by its name."""
    folder = tmp_path_factory.mktemp("tiny")

    def made(name: str) -> str:
        if not (folder / name).is_dir():
            make_tiny(folder, names=[name])
        return str(folder / name)

    return made
