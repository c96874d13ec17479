"""Text on Hydra's command line: quoted and escaped where it needs to be."""

from __future__ import annotations

import re

PATHS = ("output_root", "data.root")


def with_quotes(override: str) -> str:
    """A path as people type it, `~/my runs`, in the quotes that Hydra wants around it."""
    key, _, value = override.partition("=")
    if key not in PATHS or not value or value[0] in "'\"[{" or re.search(r"[,(]|\$\{", value):
        return override  # quoted already, or something to compute or to sweep over
    return f"{key}={quoted(value)}"


def quoted(text: str) -> str:
    """`text` as Hydra reads it on a command line: quoted and escaped where need be."""
    if re.fullmatch(r"[A-Za-z0-9_.+/-]+", text):
        return text
    text = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + (m[2] and "\\'"), _literally(text))
    return f"'{text}'"


def _literally(text: str) -> str:
    """`text` with nothing in it that OmegaConf would interpolate."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
