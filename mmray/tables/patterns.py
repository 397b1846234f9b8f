"""Columns from file names: ``{label}_{group}_{take}.wav``."""

import re
from collections.abc import Sequence

import pyarrow as pa

from mmray.errors import ConfigError

FIELD = re.compile(r"\{([^{}]*)\}|\*")
TAKEN = ("sample_id", "uri", "size_bytes", "source_tag")
SHOWN = 3


def named(table: pa.Table, pattern: str) -> pa.Table:
    """Add a text column for each ``{field}`` of a pattern, read from the end of every row's ``uri``.

    A field is one or more characters but ``/``; ``*`` is such a part too and makes no column. Folders count as far as
    the pattern names them: ``{split}/{label}_*.wav``. ConfigError, naming files, where one does not match or can be
    read in two ways (``0_mary_ann_3.wav``).
    """
    names, expression = _compiled(pattern)
    if there := [name for name in names if name in table.column_names]:
        raise ConfigError(f"--pattern {pattern}: the manifest has a column {there[0]!r} already")
    # The longest first fields and the shortest: where both give the same there is no third way.
    longest, shortest = re.compile(expression.format(more="+")), re.compile(expression.format(more="+?"))
    uris = table["uri"].to_pylist() if "uri" in table.column_names else [None] * table.num_rows
    found = [longest.search(uri or "") for uri in uris]
    _refuse(pattern, "are not named so", [uri for uri, match in zip(uris, found, strict=True) if not match], len(uris))
    also = [shortest.search(uri or "") for uri in uris]
    pairs = [(one.groups(), other.groups()) for one, other in zip(found, also, strict=True) if one and other]
    twofold = [uri for uri, (one, other) in zip(uris, pairs, strict=True) if one != other]
    _refuse(pattern, "can be read in two ways", twofold, len(uris))
    for name in names:
        table = table.append_column(name, pa.array([match[name] for match in found if match], pa.string()))
    return table


def _refuse(pattern: str, why: str, wrong: Sequence[str | None], total: int) -> None:
    if wrong:
        shown = ", ".join(str(uri) for uri in wrong[:SHOWN]) + (" ..." if len(wrong) > SHOWN else "")
        hint = "a glob as SOURCE ('DIR/?_*.wav') takes the others alone"
        raise ConfigError(f"--pattern {pattern}: {len(wrong)} of {total} files {why}: {shown}; {hint}")


def _compiled(pattern: str) -> tuple[list[str], str]:
    """Return the columns of a pattern, and its expression with ``{more}`` for how much a field takes."""
    names: list[str] = []
    expression, after = "", 0
    for field in FIELD.finditer(pattern):
        name = field[1]
        if name is not None:
            if not name.isidentifier() or name in TAKEN or name in names:
                raise ConfigError(f"--pattern {pattern}: {field[0]} cannot be a column; take another name, once")
            names.append(name)
        expression += _literal(pattern[after : field.start()])
        expression += f"(?P<{name}>[^/]{{more}})" if name else "([^/]{more})"
        after = field.end()
    if not names:
        raise ConfigError(f"--pattern {pattern}: has no {{field}}; for example '{{label}}_{{group}}_{{take}}.wav'")
    return names, f"(?:^|/){expression}{_literal(pattern[after:])}$"


def _literal(text: str) -> str:
    return re.escape(text).replace("{", "{{").replace("}", "}}")
