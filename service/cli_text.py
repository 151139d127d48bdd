"""Runs, checkpoints and problems as text for a terminal."""

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

_NUMBER = re.compile(r"[\d,]+|-")


def runs(found: list[dict[str, Any]], url: str) -> str:
    """Returns the table of `runs`."""
    if not found:
        return f"There are no runs in {url}."
    has_stages = any((run["stage"] or 1) > 1 for run in found)
    rows = []
    for run in found:
        when = ago(run["committed"]["age_seconds"]) if run["committed"] else "-"
        row = [
            run["name"],
            run["state"],
            str(run["stage"] or "-"),
            str(run["epochs"]),
            str(run["step"]),
            when,
            _metrics(run["metrics"]),
        ]
        rows.append(row if has_stages else [*row[:2], *row[3:]])
    header = ["name", "state", "stage", "epochs", "step", "last commit", "metrics"]
    lines = table(header if has_stages else [*header[:2], *header[3:]], rows)
    for run in found:
        if number := len(run["damaged_entries"]):
            lines.append(
                f"{run['name']}: {number} of its commit log's entries {'is' if number == 1 else 'are'} damaged; see verify."
            )
    return "\n".join(lines)


def run(about: dict[str, Any]) -> str:
    """Returns the page of `show`."""
    lines = [f"{about['name']}  {about['state']}  {about['url']}", "", *_record(about)]
    lines += _section("attempts", ["entry", "attempt", "workers", "begun"], [_attempt(row) for row in about["attempts"]])
    header = ["number", "stage", "epoch", "step", "bytes", "committed", ""]
    lines += _section("checkpoints", header, [_checkpoint(row) for row in about["checkpoints"]])
    for row in about["checkpoints"]:
        lines += [f"  {row['number']} is damaged: {problem}" for problem in row["damaged"]]
    lines += [f"  {problem}" for problem in about["damaged_entries"].values()]
    if about["checkpoints"]:
        lines.append("  (Files are compared by size here; verify reads every byte.)")
    header = ["entry", "stage", "epoch", "batch", "step", "loss", "what followed"]
    lines += _section("training diverged", header, [_divergence(row) for row in about["divergences"]])
    stages = [
        [
            str(row["stage"]),
            str(row["epochs"]),
            "stopped early" if row["stopped_early"] else "to the end",
            _metrics(row["metrics"]),
        ]
        for row in about["stages"]
    ]
    lines += _section("finished stages", ["stage", "epochs", "trained", "metrics"], stages)
    if result := about["result"]:
        later = "" if about["state"] == "finished" else ", and the run was taken up again"
        lines += ["", f"result ({ago(result['age_seconds'])}{later})", f"  {_metrics(result.get('metrics') or {})}"]
    return "\n".join(lines)


def check(found: dict[str, Any]) -> str:
    """Returns the lines of one of `verify`'s checks."""
    told = [("WRONG", text) for text in found["problems"]] + [("note", text) for text in found["notes"]]
    if not told:
        told = [("ok", _whole(found))]
    return "\n".join(f"{word:6} {found['what']:14} {text}".rstrip() for word, text in told)


def looked_at(found: dict[str, str]) -> str:
    """Returns the line of one of `doctor`'s checks."""
    word = {"ok": "ok", "mend": "MEND", "warning": "WARNING"}[found["state"]]
    return f"{word:8} {found['what']:12} {found['text']}"


def verdict(checks: list[dict[str, Any]]) -> str:
    """Returns the last lines of `verify`: what the checks mean for the run."""
    saved = [found for found in checks if "step" in found]
    whole = [found for found in saved if not found["problems"]]
    others = [found["what"] for found in checks if found["problems"] and "step" not in found]
    if not saved:
        lines = ["There is no checkpoint yet." if not others else "There is no checkpoint that can be read."]
    elif len(whole) == len(saved):
        lines = [f"Every checkpoint is whole: {len(saved)} of {len(saved)}."]
    elif whole:
        lines = [
            f"{len(saved) - len(whole)} of {len(saved)} checkpoints cannot be used; a run that goes on skips them. "
            f"Whole: {', '.join(map(_place, whole))}."
        ]
    else:
        lines = ["No checkpoint is whole. Put the files above back from a copy, or begin a new run under another name."]
    if others:
        lines.append(f"Something is wrong with: {', '.join(others)}.")
    return "\n".join(lines)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns lines of aligned columns; those that hold only numbers are aligned to the right."""
    rows = [*rows]
    lines: list[list[str]] = [[] for _ in range(len(rows) + 1)]
    for column in zip(header, *rows, strict=True):
        width = max(map(len, column))
        is_number = all(map(_NUMBER.fullmatch, column[1:]))
        for line, cell in zip(lines, column, strict=True):
            line.append(cell.rjust(width) if is_number else cell.ljust(width))
    return ["  ".join(line).rstrip() for line in lines]


def ago(seconds: float) -> str:
    """Returns an age in whole units, the largest of which there are two or more; below, seconds."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def _section(title: str, header: list[str], rows: list[list[str]]) -> list[str]:
    if not rows:
        return []
    return ["", title, *(f"  {line}" for line in table(header, rows))]


def _record(about: dict[str, Any]) -> list[str]:
    record = about["record"]
    asked = record.get("run") or {}
    facts = {
        "job": record.get("job") or "sent by value",
        "options": _pairs(record.get("options") or {}) or "none",
        "seed": record.get("seed"),
        "workers": _workers(asked),
        "strategy": _strategy(record.get("strategy")),
        "created": record.get("created"),
        "command": shlex.join(map(str, record.get("command") or [])),
        "git commit": record.get("git_commit") or "none",
        "versions": _pairs(record.get("versions") or {}),
    }
    lines = [f"{name:11} {value}" for name, value in facts.items() if value not in (None, "")] if record else []
    if about["record_problem"]:
        lines.append(f"{'record':11} {about['record_problem']}")
    lines.append(f"{'files':11} {about['bytes']:,} bytes{', model.keras among them' if about['has_model'] else ''}")
    if about["lease"]:
        lines.append(f"{'lease':11} {_pairs(about['lease'])} (whether that driver lives, the file does not tell)")
    return lines


def _workers(asked: dict[str, Any]) -> str:
    workers = asked.get("workers", "")
    shown = "-".join(map(str, workers)) if isinstance(workers, list) else str(workers)
    return f"{shown} ({asked['accelerator']})" if "accelerator" in asked else shown


def _strategy(recorded: Any) -> str:
    """Returns the strategy and its reason; a run of an older version has none recorded."""
    return f"{recorded.get('name')}: {recorded.get('why')}" if isinstance(recorded, dict) else ""


def _attempt(row: dict[str, Any]) -> list[str]:
    return [str(row["number"]), row["attempt"], str(row.get("workers", "-")), f"{row['time']} ({ago(row['age_seconds'])})"]


def _checkpoint(row: dict[str, Any]) -> list[str]:
    state = "what the stage left" if row["final"] else ""
    for name, is_so in (("not finite", not row["finite"]), ("left behind", row["left_behind"]), ("DAMAGED", row["damaged"])):
        state = name if is_so else state
    when = f"{row['time']} ({ago(row['age_seconds'])})"
    return [str(row["number"]), str(row["stage"]), str(row["epoch"]), str(row["step"]), f"{row['bytes']:,}", when, state]


def _divergence(row: dict[str, Any]) -> list[str]:
    followed = "the run ended" if row["is_over"] else "training went on as it was"
    if row["skipped"]:
        (epoch, batch), (last_epoch, last_batch) = row["skipped"]
        back = f"checkpoint {row['back_to']}" if row["back_to"] else "the beginning"
        skipped = f"epoch {epoch + 1}, batch {batch + 1} to epoch {last_epoch + 1}, batch {last_batch + 1}"
        followed = f"back to {back}, without {skipped}"
    place = [str(row["number"]), str(row["stage"]), str(row["epoch"] + 1), str(row["batch"] + 1), str(row["step"])]
    return [*place, f"{row['loss']:.5g}", followed]


def _place(found: dict[str, Any]) -> str:
    left = ", what the stage left" if found["final"] else ""
    return f"{found['number']} (stage {found['stage']}, epoch {found['epoch']}, step {found['step']}{left})"


def _whole(found: dict[str, Any]) -> str:
    if "step" in found:
        count = len(found["files"])
        files = "1 file" if count == 1 else f"{count} files"
        return f"stage {found['stage']}, epoch {found['epoch']}, step {found['step']}: {found['bytes']:,} bytes in {files}"
    if "entries" in found:
        return "1 entry" if found["entries"] == 1 else f"{found['entries']} entries"
    return ""


def _metrics(metrics: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:.5g}" for name, value in metrics.items() if isinstance(value, int | float))


def _pairs(values: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value}" for name, value in values.items())
