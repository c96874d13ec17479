"""The notebook is committed without outputs and runs on any tree of runs."""

import os
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, TINY
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


@pytest.fixture(scope="module")
def kernel() -> Iterator[NotebookClient]:
    """A kernel in experiments/, which takes seconds to start."""
    folder = {"metadata": {"path": str(ROOT / "experiments")}}
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=120, resources=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with client.setup_kernel():
            yield client


def execute(kernel: NotebookClient, outputs: str | None) -> str:
    """Run the notebook with `outputs` in OUTPUTS; the outputs of all its cells together."""
    notebook = nbformat.read(ROOT / "experiments" / "compare.ipynb", as_version=4)
    change = "pop('OUTPUTS', None)" if outputs is None else f"update(OUTPUTS={outputs!r})"
    fresh = f"%reset -f\nimport os\nos.environ.{change}"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(fresh))
    kernel.nb = notebook
    for position, cell in enumerate(notebook.cells):
        kernel.execute_cell(cell, position)
    return "".join(str(cell.get("outputs", "")) for cell in notebook.cells[1:])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's libraries
def test_several_directories(tmp_path: Path, kernel: NotebookClient) -> None:
    for lr, seed in (("0.01", 0), ("0.01", 1), ("0.1", 0)):
        overrides = ["model.width=8", "trainer.epochs=2", f"optimizer.lr={lr}"]
        make_run(tmp_path / "a", overrides, seed, 0.8, curve=[0.3, 0.8])
    make_run(tmp_path / "b", ["model.width=16", "optimizer.lr=0.1"], 0, 0.9, curve=[0.3, 0.9])
    (tmp_path / "b" / "odd" / "seed=1").mkdir(parents=True)
    shown = execute(kernel, os.pathsep.join(str(tmp_path / name) for name in "ab"))
    assert "4 runs in 3 cells" in shown
    assert "passed over: " in shown
    assert "lr 0.01 − 0.1" in shown
    assert "Which is best?" in shown
    assert "model.width" in shown  # in what the chosen runs differ
    assert 'class="points"' in shown  # curves one can point at


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_empty_directory_is_one_sentence(tmp_path: Path, kernel: NotebookClient) -> None:
    shown = execute(kernel, str(tmp_path))
    assert f"There are no runs in {tmp_path}: train some" in shown
    assert shown.count("output_type") == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_opens_on_the_committed_records(kernel: NotebookClient) -> None:
    if any((ROOT / "outputs").glob("*/seed=*/run.json")):
        pytest.skip("something was trained here, and that is what it opens on")
    shown = execute(kernel, None)
    assert "from results/runs" in shown
    assert "more than chance?" in shown


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_quickstart_trains_and_shows_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is committed, but for its parameters; nothing is installed, since it is here."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(ROOT / "experiments" / "quickstart.ipynb", as_version=4)
    (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    tiny = [o for o in TINY if o != "trainer.epochs=2"]
    parameters.source = f"SOURCE = ''\nOPTIONS = '{' '.join(tiny)} optimizer.lr=0.01,0.1 seed=0'"
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=240, resources=folder).execute()
    shown = "".join(str(cell.get("outputs", "")) for cell in notebook.cells)
    assert "2 runs: 2 done" in shown
    assert "<iframe srcdoc=" in shown
    assert "accuracy on validation, last epoch" in shown
    assert len(list((tmp_path / "demo").glob("*/seed=0/run.json"))) == 2


def test_the_quickstart_installs_what_it_is_told() -> None:
    notebook = nbformat.read(ROOT / "experiments" / "quickstart.ipynb", as_version=4)
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "if SOURCE:\n    %pip install --quiet {SOURCE}\n" in source
