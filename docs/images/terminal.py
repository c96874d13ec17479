"""A terminal's screen as an SVG picture: how the README's were made, from real output.

tmux capture-pane -e -p | python docs/images/terminal.py 'python train.py …' > docs/images/sweep.svg
"""

import io
import re
import sys

from rich.console import Console
from rich.text import Text

WIDTH = 100  # columns
FONTS = "ui-monospace, Menlo, Consolas, monospace"

command, screen = sys.argv[1], sys.stdin.read().rstrip()
console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
console.print(Text(f"$ {command}", style="bold"))
console.print(Text.from_ansi(screen), soft_wrap=True)
svg = console.export_svg(title="", unique_id=f"screen{len(screen)}")
svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # nothing from a network
print(svg.replace("Fira Code, monospace", FONTS))
