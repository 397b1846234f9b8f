"""Search behind the endpoint: what `mmray search` does, with uploads for files."""

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from mmray import storage
from mmray.errors import ConfigError
from mmray.generation.base import GenerateFn, Progress, RequestError
from mmray.pipelines import search
from mmray.pipelines.serving.asked import SearchAsked
from mmray.pipelines.serving.reading import Medium, opened
from mmray.tables.store import open_store

OPTION = re.compile(r"--([a-z]+)")  # as the command line calls what is a field here
FIELDS = {"in": "within"}
Asked = tuple[str, SearchAsked, float]  # which field asks, the body, the most seconds of a medium


def searcher(store: str, file: str) -> "Searcher":
    """Return the loader of a search; ConfigError where the store cannot be opened."""
    try:
        open_store(store)
    except ConfigError as error:
        raise ConfigError(f"{file}: store: {error}") from None
    return Searcher(store)


@dataclass(frozen=True)
class Searcher:
    """The search of one store."""

    store: str

    def load(self, device: str) -> GenerateFn:
        """Open the store; the extractors that queries need are loaded when they are first needed."""
        del device

        def generate(requests: Sequence[Asked], progress: Progress) -> list[Any]:
            found = []
            for number, asked in enumerate(requests):
                progress(number, len(requests))
                try:
                    found.append(self._answer(*asked))
                except RequestError as error:
                    found.append(error)
            return found

        return generate

    def _answer(self, means: Any, body: SearchAsked, longest_s: float) -> Any:
        value = getattr(body, means)
        given = opened(Medium(value, longest_s, means)) if isinstance(value, bytes) else nullcontext((value, None))
        with given as (asked, _):
            question = search.Question(means, asked, body.k, body.within, body.pooling, body.windows, tuple(body.where))
            try:
                return search.run(self.store, question)
            except ConfigError as error:
                words = self._outward(str(error)).replace(f"--{means} {asked!r}", means)
                field = _field(words, means, body)
                raise RequestError(field, OPTION.sub(_called, words)) from error

    def _outward(self, words: str) -> str:
        """Return what is said of the store without its place."""
        place = storage.absolute(self.store)
        return words.removeprefix(f"{self.store}: ").removeprefix(f"{place}: ").replace(place, "the store")


def _called(option: re.Match[str]) -> str:
    """Return the field that an option of the command line is here."""
    return FIELDS.get(option[1], option[1])


def _field(words: str, means: str, body: SearchAsked) -> str:
    """Return the field that the words of a search are about: the first option that they name, or what they quote."""
    if found := OPTION.search(words):
        return _called(found)
    return "within" if body.within is not None and body.within in words else means
