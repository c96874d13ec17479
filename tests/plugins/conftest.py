"""Stands alone: the plugins and these tests need nothing else of this repository."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
for folder in (ROOT, ROOT / "tests"):  # hydra_plugins, and this package
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from .hydra_toy import sweep  # noqa: E402, F401 (a fixture)
