"""The notebooks are committed without outputs, are made of short cells, and run on any runs."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, TINY
from made_up import make_run
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOKS = sorted((ROOT / "experiments").glob("*.ipynb"))
COMPARE, QUICKSTART = NOTEBOOKS
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's libraries


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_committed_notebook_holds_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_cells_to_edit_are_short() -> None:
    """Nobody has to read plumbing first: lines that are not blank."""
    notebook = nbformat.read(COMPARE, as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    lengths = [sum(bool(line.strip()) for line in source.splitlines()) for source in sources]
    table = next(i for i, source in enumerate(sources) if "val %" in source)
    assert max(lengths[:table]) <= 3
    assert max(lengths) <= 6


@pytest.fixture(scope="module")
def kernel() -> Iterator[NotebookClient]:
    """A kernel in experiments/, which takes seconds to start."""
    folder = {"metadata": {"path": str(ROOT / "experiments")}}
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=120, resources=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        with client.setup_kernel():
            yield client


def run_cells(kernel: NotebookClient, cells: list[nbformat.NotebookNode]) -> str:
    """Run cells from the beginning; the outputs of all of them together."""
    kernel.nb = nbformat.v4.new_notebook()
    kernel.nb.cells = [nbformat.v4.new_code_cell("%reset -f"), *cells]
    for position, cell in enumerate(kernel.nb.cells):
        kernel.execute_cell(cell, position)
    return "".join(str(cell.get("outputs", "")) for cell in cells)


def last_error(kernel: NotebookClient) -> list[str]:
    """The lines that the cell which failed shows."""
    outputs = [output for cell in kernel.nb.cells for output in cell.get("outputs", [])]
    assert outputs[-1].output_type == "error"
    return list(outputs[-1].traceback)


def run_compare(kernel: NotebookClient, *roots: Path) -> str:
    """Run compare.ipynb, on the runs in `roots` if there are any."""
    notebook = nbformat.read(COMPARE, as_version=4)
    if roots:
        (first,) = (cell for cell in notebook.cells if cell.source.startswith("ROOT = "))
        first.source = f"runs = load_runs(*{list(map(str, roots))})"
    return run_cells(kernel, notebook.cells)


def test_several_directories(tmp_path: Path, kernel: NotebookClient) -> None:
    for lr, seed in (("0.01", 0), ("0.01", 1), ("0.1", 0)):
        overrides = ["model.width=8", "trainer.epochs=2", f"optimizer.lr={lr}"]
        last = 0.8 + seed / 100
        make_run(tmp_path / "a", overrides, seed, last, curve=[0.3, last])
    make_run(tmp_path / "b", ["model.width=16", "optimizer.lr=0.1"], 0, 0.9, curve=[0.3, 0.9])
    (tmp_path / "b" / "odd" / "seed=1").mkdir(parents=True)
    shown = run_compare(kernel, tmp_path / "a", tmp_path / "b")
    assert "<td>90.0</td>" in shown
    columns = re.findall(r"<th>([a-z %_]+)</th>", shown)
    assert columns[:5] == [
        "val %",
        "seed",
        "status",
        "lr",
        "width",
    ]  # only what varies
    assert "odd" in shown  # a directory that was passed over
    assert "3 runs of  2 cells: CIFAR-10, width 8, 2 epochs" in shown
    assert "(lr 0.01) − (lr 0.1), in points" in shown
    assert "paired      0.00  p = nan  n = 1" in shown
    assert "two-sample  0.50" in shown
    assert "Which is best?" in shown
    assert "0 of 3 runs have predictions" in shown
    assert shown.count("image/png") == 2


def test_a_single_run(tmp_path: Path, kernel: NotebookClient) -> None:
    make_run(tmp_path, ["model.width=8", "trainer.epochs=2"], 0, 0.8, curve=[0.3, 0.8])
    assert "1 runs of  1 cells" in run_compare(kernel, tmp_path)


def test_an_empty_directory_is_one_line(tmp_path: Path, kernel: NotebookClient) -> None:
    with pytest.raises(CellExecutionError):
        run_compare(kernel, tmp_path)
    line = "error: there are no runs: train some, or name the directory that holds them"
    assert last_error(kernel) == [line]


def test_it_opens_on_the_committed_records(kernel: NotebookClient) -> None:
    if any((ROOT / "outputs").glob("*/seed=*/run.json")):
        pytest.skip("something was trained here, and that is what it opens on")
    shown = run_compare(kernel)
    assert "40 runs of  8 cells: CIFAR-10, width 16, 5 epochs" in shown
    assert "more than chance?" in shown
    assert "n = 5" in shown


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is installed: setuptools leaves folders behind where it builds."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("conf", "experiments", "resnet_cifar", "hydra_plugins"):
        ignored = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_the_quickstart_installs_trains_and_shows_the_report(
    tmp_path: Path, source: Path, kernel: NotebookClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is committed, but for the source, the sizes, and TensorBoard, which would stay."""
    (packages := tmp_path / "packages").mkdir()
    for name, value in {
        "PYTHONPATH": str(packages),
        "OMP_NUM_THREADS": "1",
        "PIP_TARGET": str(packages),  # not into the environment of the tests
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round
    }.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(QUICKSTART, as_version=4)
    tiny = " ".join(o for o in TINY if o != "trainer.epochs=2")
    changes = {
        'SOURCE = ""': f'SOURCE = "{source}"',
        "experiment=quickstart": f"experiment=quickstart {tiny} optimizer.lr=0.01,0.1 seed=0",
        "%tensorboard": "# %tensorboard",
    }
    for old, new in changes.items():
        (cell,) = (c for c in notebook.cells if c.cell_type == "code" and old in c.source)
        cell.source = cell.source.replace(old, new)
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=240, resources=folder).execute()
    shown = "".join(str(cell.get("outputs", "")) for cell in notebook.cells)
    assert "2 runs: 2 done" in shown
    assert "Which is best?" in shown
    assert shown.count("image/png") == 1
    assert len(list((tmp_path / "demo").glob("*/seed=0/run.json"))) == 2
    assert (packages / "resnet_cifar" / "conf").is_dir()

    shown = run_compare(kernel, tmp_path / "demo")  # with predictions and images
    assert "2 of 2 runs have predictions" in shown
    assert " of 32 images: " in shown
    assert shown.count("image/png") == 3


def open_quickstart(address: str, before: str = "") -> list[nbformat.NotebookNode]:
    """The first two cells of code with a SOURCE; pip's line only printed."""
    notebook = nbformat.read(QUICKSTART, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"][:2]
    cells[0].source = cells[0].source.replace('SOURCE = ""', f"{before}\nSOURCE = {address!r}")
    cells[1].source = cells[1].source.replace("%pip install --quiet {address}", "print(address)")
    return cells


@pytest.mark.parametrize(
    ("address", "installed"),
    [
        ("https://example.org/me/resnet-cifar", "git+https://example.org/me/resnet-cifar"),
        ("https://example.org/main.zip", "https://example.org/main.zip"),
        ("git+https://example.org/me/resnet-cifar", "git+https://example.org/me/resnet-cifar"),
        ("..", str(ROOT)),
        ("resnet-cifar", str(ROOT / "experiments" / "resnet-cifar")),  # never a registry's
    ],
)
def test_the_quickstart_takes_an_address(
    address: str, installed: str, kernel: NotebookClient
) -> None:
    assert f"'{installed}\\n'" in run_cells(kernel, open_quickstart(address))


def test_the_quickstart_says_what_is_missing(kernel: NotebookClient) -> None:
    hide = "import importlib.util as util\nutil.find_spec = lambda name: None"
    with pytest.raises(CellExecutionError):
        run_cells(kernel, open_quickstart("", hide))
    line = "resnet-cifar is not installed: write the address of your copy into SOURCE above."
    assert last_error(kernel) == [line]
    restore = "import importlib\nimportlib.reload(importlib.util)"
    run_cells(kernel, [nbformat.v4.new_code_cell(restore)])
