"""The notebook is committed without outputs and runs on any tree of runs."""

from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from made_up import make_run
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "experiments").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_committed_notebook_holds_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's libraries
def test_compare_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for lr, seed in (("0.01", 0), ("0.01", 1), ("0.1", 0)):
        make_run(tmp_path, ["model.width=8", f"optimizer.lr={lr}"], seed, 0.8, curve=[0.3, 0.8])
    monkeypatch.setenv("OUTPUTS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "experiments" / "compare.ipynb", as_version=4)
    folder = {"metadata": {"path": str(ROOT / "experiments")}}
    NotebookClient(notebook, timeout=120, resources=folder).execute()
    shown = "".join(str(cell.get("outputs", "")) for cell in notebook.cells)
    assert "3 runs in" in shown
    assert "lr 0.01 − 0.1" in shown
    assert "<svg" in shown
