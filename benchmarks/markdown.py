"""A benchmark's results as a section of a Markdown page."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, and an empty line after it; nothing where there are no rows."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    lines.insert(1, "|---" * len(heads) + "|")
    return "\n".join([*lines, ""]) if len(lines) > 2 else ""


def spread(numbers: Sequence[float]) -> dict[str, Any]:
    """Median, smallest, largest and all of some numbers."""
    middle = statistics.median(numbers)
    return {"median": middle, "low": min(numbers), "high": max(numbers), "rounds": list(numbers)}


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    """The spread of quotients, one a round."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def markdown(results: dict[str, Any]) -> str:
    """The section, from what the JSON file holds: the setting, speeds, an epoch."""
    peers, versions = results["peers"], results["versions"]
    lines = [
        *_setting(results),
        table(
            ["", "images/s", "peak memory, MB", "first step, s"],
            [_contender(name, results) for name in results["contenders"]],
        ),
        f"**Ratio, engine over {results['fastest_plain']}: {_text(results['ratio'], '.2f')}.** "
        f"The engine's model FLOP/s are {_text(results['share_of_matmul_rate'], '.2f')} of the "
        "matrix product's.\n",
        *(f"Engine over {k} {versions[k]}: {_text(v, '.2f')}.\n" for k, v in peers.items()),
    ]
    if results["peers_missing"]:
        lines.append(f"Not installed, so not measured: {', '.join(results['peers_missing'])}.\n")
    epoch = results["epoch"]
    whole = epoch["whole_epoch_seconds"]
    total = sum(whole.values())
    lines += [
        table(
            [f"of a whole epoch, {total:.1f} s", "s", "%"],
            ((part, f"{s:.3f}", f"{100 * s / total:.1f}") for part, s in whole.items()),
        ),
        f"From epochs of {epoch['train_images']:,} images and validations of "
        f"{epoch['val_images']:,}. Validation runs at "
        f"{epoch['val_images'] / epoch['seconds']['validation']:,.0f} images/s.",
    ]
    return "\n".join(line for line in lines if line)


def _setting(results: dict[str, Any]) -> list[str]:
    """Heading, command, machine, versions and the engine's choices."""
    setting, versions, git = results["setting"], results["versions"], results["git"]
    machine = f"{results['device']}, {results['cores']} cores"
    if results["device_type"] == "cpu":
        machine += f", {setting['threads']} threads"
    commit = (git["commit"] or "?")[:12] + (" with changes" if git["uncommitted"] else "")
    return [
        f"## {results['device_type']}, width {setting['width']}, {setting['data']}\n",
        f"    {results['command']}\n",
        f"{results['made'][:10]}, {results['seconds'] / 60:.1f} minutes; {machine}, load before "
        f"{results['load_before']}; Python {versions['python']}, torch {versions['torch']}, "
        f"torchvision {versions['torchvision']}; commit {commit}. "
        f"Batch {setting['batch_size']}; engine: {setting['precision']}, {setting['layout']}, "
        f"compile {'on' if setting['compile'] else 'off'}. "
        f"Median (smallest to largest) of {setting['rounds']} rounds of {setting['seconds']:g} s, "
        "taking turns.\n",
    ]


def _contender(name: str, results: dict[str, Any]) -> list[str]:
    """Speed, memory and first step of a contender."""
    values = results["contenders"][name]
    return [
        name,
        _text(spread(values["images_per_second"]), ",.0f"),
        f"{max(values['peak_memory_bytes']) / 1e6:,.0f}",
        f"{values['first_step_seconds']:.2f}",
    ]


def _text(values: dict[str, Any], digits: str = ".2f") -> str:
    """Format a spread: 3.4 (3.1 to 3.5)."""
    median, low, high = (format(values[key], digits) for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"
