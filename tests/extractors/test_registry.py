"""Extractors by name, ours and other people's."""

from importlib.metadata import EntryPoint

import pytest

from mmray.errors import ConfigError
from mmray.extractors import registry
from mmray.extractors.pixels import Pixels


class Whale(Pixels):
    """Somebody else's extractor."""

    name = "whale"


@pytest.fixture
def third_parties(monkeypatch):
    from importlib.metadata import EntryPoints

    def put(**values):
        points = EntryPoints(EntryPoint(name, value, registry.GROUP) for name, value in values.items())
        monkeypatch.setattr(registry, "entry_points", points.select)

    return put


def test_every_name_is_that_of_its_class():
    for name in registry.BUILT_IN:
        assert registry.get(name).name == name


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"no extractor 'yamnett'.*did you mean 'yamnet'"):
        registry.get("yamnett")


def test_third_parties_are_found(third_parties):
    third_parties(whale=f"{__name__}:Whale")
    assert registry.get("whale") is Whale
    assert "whale" in registry.names()


def test_a_built_in_name_cannot_be_taken_over(third_parties):
    third_parties(pixels=f"{__name__}:Whale")
    assert registry.get("pixels") is Pixels


@pytest.mark.parametrize("value", ["not_there:Whale", "mmray.errors:Whale", "mmray.errors:Reason"])
def test_a_broken_third_party_is_named(third_parties, value):
    third_parties(whale=value)
    with pytest.raises(ConfigError, match=r"'whale'.*mmray|'whale'.*not_there"):
        registry.get("whale")
