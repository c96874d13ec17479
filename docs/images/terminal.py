"""A terminal's screen as an SVG picture: how the README's were made, from real output.

tmux capture-pane -e -p | python docs/images/terminal.py 'python train.py …' > sweep.svg
"""

import io
import sys

from rich.console import Console
from rich.text import Text

WIDTH = 100  # columns

command = sys.argv[1]
screen = sys.stdin.read().rstrip()
console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
console.print(Text(f"$ {command}", style="bold"))
console.print(Text.from_ansi(screen), soft_wrap=True)
print(console.export_svg(title="", unique_id="screen"))
