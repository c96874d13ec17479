"""`python -m resnet_cifar report [outputs]`: the answers in the terminal and in a folder."""

import argparse
import sys
from datetime import date
from pathlib import Path

from resnet_cifar import paths
from resnet_cifar.cli.edge import Parser, fail_for, run_command
from resnet_cifar.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and report; the process's exit code."""
    parser = Parser(
        prog=paths.command_name("report"),
        description="Put runs beside the published study: tables, intervals, verdicts, figures.",
        epilog="Writes report.md, report.html (one file, opens anywhere), figures/ and tables/. "
        "Questions and claims: experiments/questions.yaml; published values: "
        "experiments/published.yaml.",
    )
    where = "directories of runs (default: outputs)"
    parser.add_argument("outputs", nargs="*", type=Path, default=[Path("outputs")], help=where)
    to = "where the files go (default: report)"
    parser.add_argument("--to", type=Path, default=Path("report"), metavar="FOLDER", help=to)
    parser.add_argument("--questions", type=Path, help="instead of experiments/questions.yaml")
    parser.add_argument("--title", default="ResNet-18 on CIFAR-10: what the runs say")
    parser.add_argument("--quiet", action="store_true", help="nothing of it in the terminal")
    return run_command(parser, _report, arguments)


def _report(options: argparse.Namespace) -> None:
    # Late: --help and a wrong path need no pandas.
    from resnet_cifar.record.provenance import git_state
    from resnet_cifar.report import contents, folder, study, terminal
    from resnet_cifar.runs.find import code
    from resnet_cifar.runs.table import load_metrics, load_probe, load_runs
    from resnet_cifar.text import printable

    questions = study.load_questions(options.questions or study.EXPERIMENTS / "questions.yaml")
    runs = load_runs(*options.outputs)
    closed = runs.attrs["closed"]
    if runs.empty:
        roots = ", ".join(map(str, options.outputs))
        hint = next(iter(closed), "train some, or name the directory that holds them")
        raise UserError(f"{roots}: no runs there; {hint}")
    today = date.today()
    report = contents.build_report(
        runs,
        load_metrics(runs),
        questions,
        study.load_published(),
        options.title,
        load_probe(runs),
        f"Made on {today.day} {today:%B %Y} by code {code(git_state(paths.checkout()))}.",
    )
    folder.write_report(report, options.to)
    if not options.quiet:
        terminal.print_report(report)
    print(f"\n{printable(str(options.to / 'report.html'))}: all of it, with figures")
    fail_for(closed)  # what it says is not of all runs that there are


if __name__ == "__main__":
    sys.exit(main())
