"""A report in a terminal: the first screen and the main table of each question."""

from collections.abc import Iterable

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table as RichTable
from rich.text import Text

from resnet_cifar.report.document import MARKS, Fold, Part, Report, Table
from resnet_cifar.text import print_table, printable, wide_console

MOST_ITEMS = 5  # of what is folded
_STYLES = {"holds": "green", "differs": "green", "does not hold": "red", "undecided": "yellow"}


def print_report(report: Report) -> None:
    """Print the first screen, and of each question its first table; the page has the rest."""
    console = wide_console()
    console.print(Text(printable(report.subtitle)))
    _print_parts(report.parts, console)


def _print_parts(parts: Iterable[Part], console: Console) -> None:
    for part in parts:
        match part:
            case str():
                console.print(Markdown(part), soft_wrap=False)
            case list():  # a line for each claim; the page unfolds its settings
                grid = RichTable.grid(padding=(0, 1))
                grid.add_column(no_wrap=True)
                grid.add_column()
                for item in part:
                    marks = Text("\n").join(map(_mark, item.verdicts)) or Text("•")
                    grounds = printable(item.grounds), "dim"
                    grid.add_row(marks, Text.assemble(printable(item.sentence), ". ", grounds))
                console.print(grid)
            case Table():
                numbers = [title for title in part.columns if not part.is_left(title)]
                print_table([*part.columns], part.rows(), numbers, more="report.html shows all")
            case Fold(apart=False):
                # Marks first: behind a long title a line would break inside one.
                title = [*map(_mark, part.verdicts), Text(printable(part.title), "bold")]
                console.print("", Text("  ").join(title), sep="\n", soft_wrap=False)
                lists = [each for each in part.parts if isinstance(each, list)]
                tables = [each for each in part.parts if isinstance(each, Table)]
                # Of a question the first table, of what is folded the first lines.
                few: list[Part] = [*(each[:MOST_ITEMS] for each in lists), *tables[:1]]
                _print_parts(part.parts if part.level == 2 else few, console)
                if more := sum(len(each[MOST_ITEMS:]) for each in lists):
                    console.print(Text(f"{more} more in report.html", style="dim"))


def _mark(verdict: str) -> Text:
    return Text(f"{MARKS[verdict]} {verdict}", style=_STYLES[verdict])
