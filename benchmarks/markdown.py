"""A benchmark's results as a section of a Markdown page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def markdown(results: dict[str, Any]) -> str:
    """The section, from what the JSON file holds: the setting, speeds, options, an epoch."""
    return "\n".join(
        [
            *_setting(results),
            "",
            *_contenders(results),
            "",
            *_ratio_lines(results),
            *_small_runs(results["small_runs"]),
            *_options(results["options"]),
            "",
            *_epoch(results["epoch"]),
        ]
    )


def spread(numbers: Sequence[float]) -> dict[str, Any]:
    """Median, smallest, largest and all of some numbers."""
    return {
        "median": statistics.median(numbers),
        "low": min(numbers),
        "high": max(numbers),
        "rounds": list(numbers),
    }


def on_or_off(value: bool) -> str:
    """The word for a switch."""
    return "on" if value else "off"


def _setting(results: dict[str, Any]) -> list[str]:
    """Heading, command, machine, versions and the engine's choices."""
    setting, versions, git = results["setting"], results["versions"], results["git"]
    machine = f"{results['device']}, {results['cores']} cores"
    if results["device_type"] == "cpu":
        machine += f", {setting['threads']} threads"
    commit = (git["commit"] or "?")[:12] + (" with changes" if git["uncommitted"] else "")
    lines = [
        f"## {results['device_type']}, width {setting['width']}, {setting['data']}",
        "",
        f"    {results['command']}",
        "",
        f"{results['made'][:10]}, {results['seconds'] / 60:.1f} minutes; {machine}, load before "
        f"{results['load_before']}; Python {versions['python']}, torch {versions['torch']}, "
        f"torchvision {versions['torchvision']}; commit {commit}. "
        f"Batch {setting['batch_size']}; engine: {setting['precision']}, {setting['layout']}, "
        f"compile {on_or_off(setting['compile'])}. "
        f"Median (smallest to largest) of {setting['rounds']} rounds of {setting['seconds']:g} s, "
        "taking turns.",
    ]
    seconds = setting["precision_seconds"]
    if seconds.get("bf16"):  # measured, where `auto` chose
        both = " and ".join(f"{1000 * seconds[p]:.1f} ms in {p}" for p in ("fp32", "bf16"))
        times = f"{seconds['fp32'] / seconds['bf16']:.2f} ×"
        lines += ["", f"`auto` chose {setting['precision']}: {both} for the same work ({times})."]
    return lines


def _contenders(results: dict[str, Any]) -> list[str]:
    """The table of speed, memory and start of each contender."""
    lines = [
        "| | images/s | peak memory, MB | first step, s | a run of one step, s |",
        "|---|---|---|---|---|",
    ]
    for name, values in results["contenders"].items():
        startup = results["startup_seconds"][name.partition(",")[0]]
        lines.append(
            f"| {name} | {_text(spread(values['images_per_second']), ',.0f')} "
            f"| {max(values['peak_memory_bytes']) / 1e6:,.0f} "
            f"| {values['first_step_seconds']:.2f} | {_text(spread(startup), '.1f')} |"
        )
    return lines


def _ratio_lines(results: dict[str, Any]) -> list[str]:
    """The engine's speed over the others', and its share of the matrix product's rate."""
    lines = [
        f"**Ratio, engine over {results['fastest_plain']}: {_text(results['ratio'], '.2f')}.** "
        f"The engine's model FLOP/s are {_text(results['share_of_matmul_rate'], '.2f')} of the "
        "matrix product's.",
        "",
    ]
    for name, ratio in results["peers"].items():
        lines += [f"Engine over {name} {results['versions'][name]}: {_text(ratio, '.2f')}.", ""]
    if results["peers_missing"]:
        lines += [f"Not installed, so not measured: {', '.join(results['peers_missing'])}.", ""]
    return lines


def _small_runs(small: dict[str, Any]) -> list[str]:
    """The table of small runs as a whole; nothing where none were timed."""
    if not small["seconds"]:
        return []
    lines = [
        f"{small['runs']} runs of `{' '.join(small['settings'])}`, from the command to the "
        "end; the engine's a sweep, the others' a loop:",
        "",
        "| | s | over the engine's |",
        "|---|---|---|",
    ]
    ours = small["seconds"]["engine"]
    for name, seconds in small["seconds"].items():
        times = spread([a / b for a, b in zip(seconds, ours, strict=True)])
        lines.append(f"| {name} | {_text(spread(seconds), '.0f')} | {_text(times, '.2f')} |")
    return [*lines, ""]


def _options(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table of options switched; nothing where none were."""
    if not rows:
        return []
    lines = ["| option | engine | switched | engine over switched |", "|---|---|---|---|"]
    for row in rows:
        if "worth" in row:
            result = _text(row["worth"], ".2f")
        else:
            result = row.get("failed") or f"not measured: {row['skipped']}"
        columns = (row["option"], row.get("engine", ""), row.get("switched", ""), result)
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def _epoch(epoch: dict[str, Any]) -> list[str]:
    """The table of an epoch's parts, and the speed of validation."""
    whole = epoch["whole_epoch_seconds"]
    total = sum(whole.values())
    validation, forward = (epoch[f"{k}_images_per_second"] for k in ("validation", "forward"))
    return [
        f"| of a whole epoch, {total:.1f} s | s | % |",
        "|---|---|---|",
        *(f"| {part} | {s:.3f} | {100 * s / total:.1f} |" for part, s in whole.items()),
        "",
        f"From epochs of {epoch['train_images']:,} images and validations of "
        f"{epoch['val_images']:,}. Validation runs at {validation:,.0f} images/s, "
        f"{validation / forward:.2f} of the forward pass alone ({forward:,.0f}).",
    ]


def _text(values: dict[str, Any], digits: str) -> str:
    """Format a spread: 3.4 (3.1 to 3.5)."""
    median, low, high = (format(values[key], digits) for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"
