"""Runs as tables, for notebooks and programs: the public name of `runs.table`'s loaders."""

from typing import Any

from resnet_cifar.runs.table import load_metrics, load_predictions, load_probe, load_runs, varying

__all__ = ["load_metrics", "load_predictions", "load_probe", "load_runs", "show_report", "varying"]


def show_report(runs: Any) -> Any:
    """The first screen of the report on `runs` (a table of `load_runs`), for a notebook's cell."""
    from IPython.display import HTML

    from resnet_cifar.report import contents, page, study

    questions, published = study.load_questions(), study.load_published()
    report = contents.build_report(runs, load_metrics(runs), questions, published)
    html = page.render_notebook([*report.claims, *report.best])
    return HTML(html)  # type: ignore[no-untyped-call]
