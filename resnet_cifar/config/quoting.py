"""Quote text for Hydra's command line, so that it is read as the text it is."""

from __future__ import annotations

import re

# Keys that hold a person's own words. Of any other, Hydra may read 1e3 as the number that it is.
FREE_TEXT = (
    *("output_root", "data.root", "logger.uri"),
    *("logger.experiment", "logger.project", "logger.entity"),
)
# Numbers (1_000 and inf are some), booleans and null: Hydra makes other text of them, or none.
_NO_TEXT = re.compile(r"[+-]?(\.?\d[\d_.]*(e[+-]?[\d_]+)?|inf|nan)|true|false|null", re.IGNORECASE)


def with_quotes(override: str) -> str:
    """Quote a value as people type it, `output_root=~/my runs`, where Hydra would misread it.

    Left alone are values that are quoted already, those that Hydra computes, and null, which is
    the absence of a value.
    """
    key, _, value = override.partition("=")
    computed = value[:1] in ("'", '"', "[", "{") or re.search(r"\(|\$\{", value)
    if key.lstrip("+") not in FREE_TEXT or computed or value in ("", "null"):
        return override
    several = re.split(r"\s*,\s*", value)  # to sweep over
    if "" in several:
        return override
    return f"{key}={','.join(map(quoted, several))}"


def quoted(text: str) -> str:
    """Return `text` as it stands on Hydra's command line: quoted and escaped where need be."""
    if re.fullmatch(r"[A-Za-z0-9_.+/-]+", text) and not _NO_TEXT.fullmatch(text):
        return text
    # Double quotes, because a shell wants single ones around the argument. Backslashes count only
    # before one of them.
    text = re.sub(r'(\\*)("|\Z)', lambda m: m[1] * 2 + (m[2] and '\\"'), literally(text))
    return f'"{text}"'


def literally(text: str) -> str:
    """Return `text` with nothing in it that OmegaConf would interpolate."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
