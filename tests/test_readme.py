"""What the README shows works as it stands there."""

import re
import tomllib

import numpy as np
import yaml

from mmray.config import Entry
from mmray.extractors import registry
from mmray.extractors.base import Extractor
from mmray.pipelines import job
from mmray.specs import Rows, Wave
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_extractor_of_ones_own_gives_what_it_says() -> None:
    (code,) = (block for block in blocks("python") if "class Loudness" in block)
    namespace: dict[str, object] = {"__name__": "loudness"}
    exec(compile(code, "README.md", "exec"), namespace)
    kind = namespace["Loudness"]
    assert isinstance(kind, type)
    assert issubclass(kind, Extractor)
    extract = kind(floor=0.25).load("cpu", None)
    samples = np.concatenate([np.full(16_000, 0.5), np.full(8_000, -0.1)]).astype(np.float32)
    (rows,) = extract([Wave(samples, 16_000, 3, 2, 3.0, 4.5)])
    assert isinstance(rows, Rows)
    assert list(rows.window) == [3, 4]
    np.testing.assert_allclose(rows.columns["embedding"], [[0.5, 0.5], [0.25, 0.25]], atol=1e-6)


def test_the_entry_point_is_the_group_that_is_looked_for() -> None:
    (block,) = blocks("toml")
    assert list(tomllib.loads(block)["project"]["entry-points"]) == [registry.GROUP]


def test_every_entry_shown_is_a_valid_one() -> None:
    shown = [one for block in blocks("yaml") for one in re.findall(r"^\s*- (\{name: .*?\})", block, re.MULTILINE)]
    assert len(shown) > 8
    for text in shown:
        entry = Entry.model_validate(yaml.safe_load(text))
        job.build(entry.name, entry.settings, entry.as_, "README.md")


def test_the_table_of_models_has_them_all() -> None:
    table = README[README.index("| model | input |") : README.index("Every entry takes")]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(registry.BUILT_IN)
