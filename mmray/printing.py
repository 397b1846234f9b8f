"""What the verbs print for people; ``--json`` prints the same objects for programs."""

from collections.abc import Sequence
from typing import Any

COUNTS = ("ok", "partial", "failed", "skipped", "pending")
TEXT_LETTERS = 60


def text(verb: str, result: dict[str, Any]) -> str:
    """Return the lines to print for what a verb gives."""
    special = {
        "extract": _extract,
        "generate": _generate,
        "status": _status,
        "plan": _plan,
        "verify": _verify,
        "models": _models,
        "doctor": _doctor,
        "init": _init,
        "manifest": _manifest,
        "export": _export,
        "import": _import,
        "report": _report,
        "search": _search,
        "study": _study,
        "train": _train,
        "evaluate": _evaluate,
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
        called = result["names"].get(extractor, extractor)
        shown = extractor if called == extractor.rpartition("-")[0] else f"{extractor} ({called})"
        rows.append([shown, *(counts[name] for name in COUNTS), reasons])
    sums = "adds up" if result["adds_up"] else "DOES NOT ADD UP"
    total = f"{result['samples']} samples x {len(rows)} extractors: the account {sums}"
    return f"{table(['extractor', *COUNTS, 'reasons'], rows)}\n{total}"


def _extract(result: dict[str, Any]) -> str:
    lines = [_account(result)]
    if result["changed"]:
        lines.append(f"{result['changed']} sample(s) had changed and were done again")
    lines += _absent(result)
    if result["nothing_to_do"] and any(counts["pending"] for counts in result["accounts"].values()):
        lines.append(f"nothing to do until they are back ({result['seconds']:.1f} s)")
    elif result["nothing_to_do"]:
        lines.append(f"nothing to do: everything was done before ({result['seconds']:.1f} s)")
    else:
        lines.append(f"run {result['run_id']} took {result['seconds']:.1f} s")
    return "\n".join(lines)


def _absent(result: dict[str, Any]) -> list[str]:
    """Return a line about the sources that cannot be seen now, if there are any."""
    if not result["absent"]:
        return []
    return [f"{result['absent']} sample(s) have a source that cannot be seen now; their results stay as they are"]


def _generate(result: dict[str, Any]) -> str:
    lines = [_extract(result)]
    if alike := result.get("likeness"):
        cosines = f"mean cosine {_share(alike['mean'])}, with the frame most like it {_share(alike['most'])}"
        lines.append(f"{alike['pictures']} picture(s) compared with their videos: {cosines}")
    if "files" in result:
        lines.append(f"{result['files']} file(s) written")
    return "\n".join(lines)


def _status(result: dict[str, Any]) -> str:
    lines = [_account(result)]
    if result["running"]:
        lines.append(f"run {result['running']['run_id']} is at work on {result['running']['node']}")
    if result["changed_now"]:
        lines.append(f"{result['changed_now']} sample(s) changed since they were done; the next run does them again")
    lines += _absent(result)
    if result["changed"] and not result["changed_now"]:
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
        f"about {hours / max(1, result['cores_here']):.2g} h on the {result['cores_here']} core(s) of this machine, "
        "without a GPU"
    )
    lines += [f"cannot be probed: {reason} {count}" for reason, count in result["problems"].items()]
    return "\n".join(lines)


def _verify(result: dict[str, Any]) -> str:
    lines = [f"repaired: {words}" for words in result["repaired"]]
    lines += [f"removed {path}" for path in result["removed"]]
    lines += [f"BROKEN {one['promise']}: {one['path']}: {one['detail']}" for one in result["broken"]]
    if running := result["running"]:
        run = f"{running['run_id']} on {running['node']}, process {running['pid']}"
        lines.append(f"a run is active ({run}): what it has not committed is not checked; verify again when it ends")
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
            one["extractor"] or one["generator"],
            one["output"],
        ]
        for one in result["models"]
    ]
    return table(["model", "here", "size", "licence", "read by", "gives"], rows)


def _doctor(result: dict[str, Any]) -> str:
    checks = [
        [one["name"], "FAIL" if not one["ok"] else "look" if one["mend"] else "ok", _with(one["detail"], one["mend"])]
        for one in result["checks"]
    ]
    found = {kind: _able(result[f"{kind}s"]) for kind in ("extractor", "generator") if result[f"{kind}s"]}
    able = [f"{sum(r[1] == 'yes' for r in rows)} of {len(rows)} {kind}s" for kind, rows in found.items()]
    core = "the core works" if result["ok"] else "THE CORE DOES NOT WORK: mend what says FAIL"
    tables = [table([kind, "runs", "licence of the weights", ""], rows) for kind, rows in found.items()]
    return "\n\n".join([table(["this machine", "", ""], checks), *tables, f"{core}; {' and '.join(able)} can run here"])


def _able(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the rows of a table of extractors or generators."""
    return [
        [one["name"], "yes" if one["runs"] else "NO", one["licence"] or "-", _with(one["why"], one["mend"])]
        for one in rows
    ]


def _with(what: str, mend: str) -> str:
    return f"{what} -> {mend}" if what and mend else what or mend


def _init(result: dict[str, Any]) -> str:
    found = ", ".join(f"{count} {kind}" for kind, count in result["found"].items())
    waiting = f"; {', '.join(result['waiting'])} wait for weights" if result["waiting"] else ""
    return f"{result['config']}: a first configuration for {found}{waiting}\nthe next commands stand in its first lines"


def _manifest(result: dict[str, Any]) -> str:
    lines = [f"{result['output']}: {result['samples']} samples; columns: {', '.join(result['columns'])}"]
    if result["not_media"]:
        passed = ", ".join(f"{extension} {count}" for extension, count in sorted(result["not_media"].items()))
        lines.append(f"passed over (not media): {passed}")
    if result["not_joined"]:
        lines.append(f"{result['not_joined']} sample(s) are not in the joined list")
    if result["left_out"]:
        lines.append("left out: " + ", ".join(f"{why} {count}" for why, count in result["left_out"].items()))
    return "\n".join(lines)


def _import(result: dict[str, Any]) -> str:
    head = f"{result['extractor']}: {result['given']} samples x {result['dim']}"
    counts = [f"{result[name]} {name}" for name in ("added", "unchanged", "failed") if result[name]]
    return (
        f"{head}: {', '.join(counts)}; there were {result['there_before']}, now {result['samples']}"
        f" ({result['seconds']:.1f} s)"
    )


def _export(result: dict[str, Any]) -> str:
    return f"{result['output']}: {result['samples']} samples x {result['dim']} ({result['pooling']})"


def _report(result: dict[str, Any]) -> str:
    size = f"{result['size_bytes'] / 1e6:.1f} MB"
    shown = f"{result['samples']} samples, {result['maps']} map(s), {result['thumbnails']} thumbnail(s)"
    of = f"{'an' if result['of'].startswith('e') else 'a'} {result['of']}"
    return "\n".join([f"{result['report']}: the report of {of}, {size}; {shown}", *result["notes"]])


def _search(result: dict[str, Any]) -> str:
    rows = [
        [
            one["rank"],
            f"{one['score']:.4f}",
            one["sample_id"],
            one.get("label", ""),
            f"{one['start_s']:.2f} to {one['end_s']:.2f} s" if "end_s" in one else "",
            _short(one.get("text", "")),
        ]
        for one in result["results"]
    ]
    head = ["rank", "score", "sample", "label", "window", "text"]
    used = [place for place in range(len(head)) if place < 3 or any(row[place] for row in rows)]
    lines = [table([head[place] for place in used], [[row[place] for place in used] for row in rows])]
    how = "compared" if result["exact"] else "indexed; the nearest of them, but for a few"
    lines.append(f"{result['extractor']}: {result['compared']} vectors {how}")
    if result["left_out"]:
        lines[-1] += f", {result['left_out']} left out (NaN, infinite or zero)"
    if result["map"]:
        lines.append(f"asked from {result['asked']}, through the map {result['map']}")
    if result["html"]:
        lines.append(f"page: {result['html']}")
    return "\n".join(lines)


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= TEXT_LETTERS else f"{words[:TEXT_LETTERS]}…"


def _crossmodal(result: dict[str, Any]) -> str:
    columns = ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank", "different_answers")
    found = {"chance": result["chance"], **result["maps"]}
    rows = [[name, *(f"{about[column]:.3g}" for column in columns)] for name, about in found.items()]
    excluded = ", ".join(f"{reason} {count}" for reason, count in result["excluded"].items() if count)
    lines = [
        table(["map", *(column.replace("_", " ") for column in columns)], rows),
        f"{result['pairs']} pairs: fitted on {result['fitted_on']}, asked {result['asked']} among "
        f"{result['candidates']} candidates",
        *(f"LEAK: {warning}" for warning in result["warnings"]),
    ]
    return "\n".join([*lines, f"left out: {excluded}"] if excluded else lines)


def _study(result: dict[str, Any]) -> str:
    if "maps" in result:
        return _crossmodal(result)
    head = ["#", "embeddings", "fusion", "classifier", "labels", "n", "accuracy", "95 %", "macro F1", "s"]
    head += ["published", ""]
    rows = [
        [
            *(row[name] for name in ("rank", "embeddings", "fusion", "classifier", "labels")),
            row["tested"] or "-",
            "-" if row["accuracy"] is None else f"{row['accuracy']:.3f}",
            "" if row["accuracy"] is None else f"{row['accuracy_low']:.3f}-{row['accuracy_high']:.3f}",
            "-" if row["macro_f1"] is None else f"{row['macro_f1']:.3f}",
            f"{row['seconds']:.1f}",
            "" if row["published"] is None else f"{row['published']:.3f}" + _of(row["table"]),
            "" if row["status"] == "done" else f"{row['status']}: {row['detail']}",
        ]
        for row in result["leaderboard"]
    ]
    lines = [table(head, rows)]
    if any(row["published"] is not None for row in result["leaderboard"]):
        lines.append("published: the document's own figures, of its own corpus; not a result of this study")
    lines += [f"LEAK: {warning}" for warning in result["warnings"]]
    lines += [f"left out: {note}" for note in result["notes"]]
    counts = f"{result['done']} done, {result['failed']} failed, {result['timed_out']} timed out"
    busy = f", cores {result['busy']:.0%} busy" if result["busy"] else ""
    lines.append(
        f"{result['cells']} cells: {counts}; {result['computed']} computed now, {result['seconds']:.1f} s{busy}"
    )
    return "\n".join([*lines, f"report: {result['report']}"])


def _of(table: str) -> str:
    return f" (table {table})" if table else ""


def _train(result: dict[str, Any]) -> str:
    head = ["fold", "network", "epochs", "best", "validation", "temperature", "weights", "seconds"]
    rows = [
        [
            *(one[name] for name in ("fold", "network", "epochs", "best_epoch")),
            f"{one['validation_accuracy']:.4f}",
            " ".join(f"{value:.3f}" for value in _several(one["temperature"])),
            one["parameters"],
            f"{one['seconds']:.1f}",
        ]
        for one in result["networks"]
    ]
    lines = [table(head, rows)]
    lines += [f"LEAK: {warning}" for warning in result["warnings"]]
    lines += [f"note: {note}" for note in result["notes"]]
    counts = f"{result['computed']} trained now, {result['done_before']} before"
    lines.append(f"{result['fits']} networks: {counts}, {result['seconds']:.1f} s")
    return "\n".join([*lines, f"networks: {result['out']}/networks"])


def _several(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]


def _evaluate(result: dict[str, Any]) -> str:
    board = result["leaderboard"]
    removed = list(dict.fromkeys(name for row in board for name in row["removed"]))
    head = ["#", "network", "n", "accuracy", "95 %", "macro F1", "ECE"]
    head += [*(f"no {name}" for name in removed), "worst gap"]
    rows = [
        [
            *(row[name] for name in ("rank", "network", "examples")),
            _share(row["accuracy"]),
            "" if row["accuracy"] is None else f"{row['accuracy_low']:.3f}-{row['accuracy_high']:.3f}",
            _share(row["macro_f1"]),
            f"{row['ece_before']:.3f} -> {row['ece_after']:.3f}",
            *(_share(row["removed"].get(name)) for name in removed),
            "" if row["worst_gap"] is None else f"{row['worst_gap']:+.4f} ({row['worst_gap_at']})",
        ]
        for row in board
    ]
    what = "pairs" if result["pairs"] else "examples"
    lines = [table(head, rows), "ECE: calibration error at temperature 1 -> at the fitted temperature"]
    if any(row["worst_gap"] is not None for row in board):
        lines.append("worst gap: below the best single network of the same inputs, clean and at every level of noise")
    lines += [
        f"{row['network']}: {row['unanswered']} {what} have none of its inputs" for row in board if row["unanswered"]
    ]
    lines += [f"BELOW: {words}" for words in result["below"]]
    lines += [f"LEAK: {warning}" for warning in result["warnings"]]
    lines += [f"left out: {note}" for note in result["notes"]]
    counts = f"{result['networks']} networks, {len(result['folds'])} fold(s), {result['examples']} {what}"
    lines.append(f"{counts}; {result['computed']} of {result['fits']} evaluated now, {result['seconds']:.1f} s")
    return "\n".join([*lines, f"report: {result['report']}"])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _plain(result: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {_value(value)}" for name, value in result.items())


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
