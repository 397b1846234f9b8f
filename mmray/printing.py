"""What the verbs print for people; ``--json`` prints the same objects for programs."""

from collections.abc import Sequence
from typing import Any

COUNTS = ("ok", "partial", "failed", "skipped", "pending")


def text(verb: str, result: dict[str, Any]) -> str:
    """Return the lines to print for what a verb gives."""
    special = {
        "extract": _extract,
        "status": _status,
        "plan": _plan,
        "verify": _verify,
        "models": _models,
        "doctor": _doctor,
        "manifest": _manifest,
        "export": _export,
    }
    return special.get(verb, _plain)(result)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Align columns; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in [list(head), *cells]) for place in range(len(head))]
    right = [all(isinstance(row[place], int | float) for row in rows) for place in range(len(head))]

    def line(row: Sequence[str]) -> str:
        aligned = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True))
        return "  ".join(aligned).rstrip()

    return "\n".join(line(row) for row in [list(head), *cells])


def _account(result: dict[str, Any]) -> str:
    rows = []
    for extractor, counts in result["accounts"].items():
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts["reasons"].items())
        rows.append([extractor, *(counts[name] for name in COUNTS), reasons])
    sums = "adds up" if result["adds_up"] else "DOES NOT ADD UP"
    total = f"{result['samples']} samples x {len(rows)} extractors: the account {sums}"
    return f"{table(['extractor', *COUNTS, 'reasons'], rows)}\n{total}"


def _extract(result: dict[str, Any]) -> str:
    lines = [_account(result)]
    if result["changed"]:
        lines.append(f"{result['changed']} sample(s) had changed and were done again")
    if result["nothing_to_do"]:
        lines.append(f"nothing to do: everything was done before ({result['seconds']:.1f} s)")
    else:
        lines.append(f"run {result['run_id']} took {result['seconds']:.1f} s")
    return "\n".join(lines)


def _status(result: dict[str, Any]) -> str:
    lines = [_account(result)]
    if result["running"]:
        lines.append(f"run {result['running']['run_id']} is at work on {result['running']['node']}")
    if result["changed_now"]:
        lines.append(f"{result['changed_now']} sample(s) changed since they were done; the next run does them again")
    elif result["changed"]:
        lines.append(f"the last run found {result['changed']} changed sample(s) and did them again")
    if result["throughput"]:
        lines.append(f"last run: {result['throughput']:g} s of media per second of work")
    if result["eta_s"]:
        lines.append(f"what is pending would take about {result['eta_s']:.0f} s at the last run's pace")
    return "\n".join(lines)


def _plan(result: dict[str, Any]) -> str:
    head = ["extractor", "segments pending", "core hours", "MB", "failures expected"]
    rows = [
        [
            f"{about['name']} ({extractor})",
            about["pending"],
            about["core_hours"],
            about["bytes"] // 10**6,
            about["failures"],
        ]
        for extractor, about in result["extractors"].items()
    ]
    hours = sum(about["core_hours"] for about in result["extractors"].values())
    lines = [
        table(head, rows),
        f"{result['samples']} samples, {result['media_hours']:g} h of media, {result['segments']} segments",
    ]
    lines.append(
        f"about {hours / max(1, result['cores_here']):.2g} h on the {result['cores_here']} core(s) of this machine"
    )
    lines += [f"cannot be probed: {reason} {count}" for reason, count in result["problems"].items()]
    return "\n".join(lines)


def _verify(result: dict[str, Any]) -> str:
    lines = [f"removed {path}" for path in result["removed"]]
    lines += [f"BROKEN {one['promise']}: {one['path']}: {one['detail']}" for one in result["broken"]]
    return "\n".join(
        [*lines, "every promise is kept" if result["ok"] else f"{len(result['broken'])} broken promise(s)"]
    )


def _models(result: dict[str, Any]) -> str:
    if "models" not in result:
        return _plain(result)
    if "ok" in result:
        return table(["model", "ok", "detail"], [[one["name"], one["ok"], one["detail"]] for one in result["models"]])
    rows = [
        [
            one["name"],
            "yes" if one["present"] else "no",
            f"{max(1, one['size_bytes'] // 10**6)} MB" if one["size_bytes"] else "?",
            one["licence"] + (" (non-commercial)" if one["non_commercial"] else ""),
            one["extractor"],
            one["output"],
        ]
        for one in result["models"]
    ]
    return table(["model", "here", "size", "licence", "extractor", "a row holds"], rows)


def _doctor(result: dict[str, Any]) -> str:
    checks = [
        [one["name"], "FAIL" if not one["ok"] else "look" if one["mend"] else "ok", _with(one["detail"], one["mend"])]
        for one in result["checks"]
    ]
    extractors = [
        [one["name"], "yes" if one["runs"] else "NO", one["licence"] or "-", _with(one["why"], one["mend"])]
        for one in result["extractors"]
    ]
    able = sum(one["runs"] for one in result["extractors"])
    core = "the core works" if result["ok"] else "THE CORE DOES NOT WORK: mend what says FAIL"
    return "\n".join(
        [
            table(["this machine", "", ""], checks),
            "",
            table(["extractor", "runs", "licence of the weights", ""], extractors),
            "",
            f"{core}; {able} of {len(extractors)} extractors can run here",
        ]
    )


def _with(what: str, mend: str) -> str:
    return f"{what} -> {mend}" if what and mend else what or mend


def _manifest(result: dict[str, Any]) -> str:
    lines = [f"{result['output']}: {result['samples']} samples; columns: {', '.join(result['columns'])}"]
    if result["not_media"]:
        passed = ", ".join(f"{extension} {count}" for extension, count in sorted(result["not_media"].items()))
        lines.append(f"passed over (not media): {passed}")
    if result["not_joined"]:
        lines.append(f"{result['not_joined']} sample(s) are not in the joined list")
    return "\n".join(lines)


def _export(result: dict[str, Any]) -> str:
    return f"{result['output']}: {result['samples']} samples x {result['dim']} ({result['pooling']})"


def _plain(result: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {_value(value)}" for name, value in result.items())


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
