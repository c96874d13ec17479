"""`runs` as a list: columns, order, conditions, forms; and the difference of two runs or cells."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from made_up import make_run
from rich.console import Console

from resnet_cifar import text
from resnet_cifar.runs.command import main

Call = Callable[..., str]

TINY = ["data=synthetic", "model.width=8", "trainer.epochs=2"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two learning rates with two seeds each, and a cosine run that failed."""
    monkeypatch.chdir(tmp_path)
    root = Path("outputs")
    for lr, base in (("0.1", 0.70), ("0.01", 0.60)):
        for seed in (0, 1):
            overrides = [*TINY, f"optimizer.lr={lr}"]
            value = base + 0.02 * seed * (1 if lr == "0.1" else 2)
            make_run(root, overrides, seed, value, started="2026-01-01T00:00:00+00:00")
    make_run(root, [*TINY, "scheduler=cosine"], 0, 0.65, status="failed")
    return root


@pytest.fixture
def call(root: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main([*arguments]) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert code == 0 or err.count("\n") == 1
        return out if code == 0 else err

    return run


def test_what_varies_comes_first_and_the_name_last(call: Call) -> None:
    lines = call("list", "outputs").splitlines()
    head = "lr, scheduler, seed, status, epochs, val %, augm. %, size, age, cell"
    assert re.split(" {2,}", lines[0]) == head.split(", ")
    assert len(lines) == 1 + 5 + 1 + 1  # the heads, a line a run, the sum, the failed one's cause
    assert lines[1].split()[:2] == ["0.01", "constant"]
    assert all("\x1b" not in line and "│" not in line for line in lines)  # plain in a pipe
    only = call("list", "outputs", "--where", "lr=0.1").splitlines()[0].split()
    assert only[0] == "seed"  # within one cell nothing else varies


@pytest.mark.parametrize(
    ("width", "gone"), [(60, ["size", "age", "cell"]), (80, ["size", "age"]), (140, [])]
)
def test_a_narrow_terminal_keeps_what_varies(
    call: Call, monkeypatch: pytest.MonkeyPatch, width: int, gone: list[str]
) -> None:
    monkeypatch.setattr(text, "on_terminal", lambda: True)
    monkeypatch.setattr(text, "wide_console", lambda: Console(width=width, highlight=False))
    out = call("list", "outputs")
    head = out.splitlines()[0].split()
    assert head[:4] == ["lr", "scheduler", "seed", "status"]
    assert [name for name in ("size", "age", "cell") if name not in head] == gone
    assert "…" not in out
    table = out.splitlines()[: -2 - bool(gone)]
    assert all(len(line) <= width for line in table)
    assert (f"not at this width: {', '.join(gone)}" in out) == bool(gone)


def test_ages_come_from_the_record(call: Call) -> None:
    (first, *_) = json.loads(call("list", "outputs", "--json"))
    assert first["ended"] == "2026-01-01T01:00:00+00:00"
    now = datetime.now(UTC) - datetime.fromisoformat(first["ended"])
    assert first["age"] == pytest.approx(now.total_seconds(), abs=60)


@pytest.mark.parametrize(
    ("conditions", "n"),
    [
        (["optimizer.lr=0.1"], 2),
        (["lr=1e-1"], 2),
        (["lr=0.1,0.01"], 5),
        (["scheduler=cosine"], 1),
        (["scheduler=c*"], 5),
        (["lr=0.01", "seed=1"], 1),
        (["status=failed"], 1),
        (["optimizer.nesterov=false"], 5),
        (["optimizer.nesterov=true"], 0),
        (["accuracy/val=0.7"], 1),
        (["lr=fast"], 0),
    ],
)
def test_where(call: Call, conditions: list[str], n: int) -> None:
    arguments = [word for condition in conditions for word in ("--where", condition)]
    assert len(json.loads(call("list", "outputs", *arguments, "--json"))) == n


def test_order_columns_and_forms(call: Call) -> None:
    shown = ["--columns", "lr,seed,accuracy/val"]
    best = ["--sort", "accuracy/val", "--reverse"]
    lines = call("list", "outputs", *best, *shown).splitlines()
    assert [" ".join(line.split()) for line in lines[1:3]] == ["0.1 1 72.00", "0.1 0 70.00"]
    rows = list(csv.DictReader(io.StringIO(call("list", "outputs", *best, *shown, "--csv"))))
    assert rows[0] == {"optimizer.lr": "0.1", "seed": "1", "accuracy/val": "0.72"}
    whole = list(csv.DictReader(io.StringIO(call("list", "outputs", "--csv"))))
    assert len(whole) == 5
    assert {"status", "optimizer.lr", "best/accuracy/val", "seconds", "age"} <= whole[0].keys()
    assert json.loads(call("list", "outputs", "--json", *shown, *best))[0]["seed"] == 1


def test_a_record_that_cannot_be_read_is_a_row(call: Call, root: Path) -> None:
    path = sorted(root.glob("*/seed=*"))[0] / "run.json"
    path.write_text("{}")
    rows = json.loads(call("list", "outputs", "--json", "--sort", "accuracy/val"))
    assert len(rows) == 5
    assert rows[-1]["status"] == "unreadable"  # without a value: last
    assert str(path) in rows[-1]["error"]
    assert "unreadable" in call("list", "outputs")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--where", "lr"], "key=value"),
        (["--where", "optimizer.lrr=1"], "did you mean optimizer.lr"),
        (["--sort", "nonsense"], "no run has 'nonsense'"),
        (["--columns", ","], "--columns"),
        (["--where", "epochs=2", "--columns", "detach,val"], "val"),
    ],
)
def test_refused(call: Call, arguments: list[str], said: str) -> None:
    usage = said in ("key=value", "--columns")
    assert said in call("list", "outputs", *arguments, code=2 if usage else 1)


def test_foreign_text_is_shown_as_text(
    call: Call, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = root / "[red]x[b]\x1b[31m"
    odd.mkdir()
    (odd / "seed=0").mkdir()
    monkeypatch.setattr(text, "on_terminal", lambda: True)
    for arguments in ([], ["--columns", "cell,status"]):
        out = call("list", "outputs", *arguments)
        assert "[red]" in out
        assert "\x1b[31m" not in out


def test_two_cells(call: Call, root: Path) -> None:
    slow, fast = (str(next(root.glob(f"lr{lr}_constant*"))) for lr in ("0.01", "0.1"))
    out = call("diff", slow, fast)
    table = [re.split(" {2,}", line) for line in out.splitlines()]
    lines = {name: values for name, *values in table}
    assert lines["optimizer.lr"] == ["0.01", "0.1"]
    assert "scheduler" not in lines
    assert "seed" not in lines
    # 60 and 64, 70 and 72: the pairs differ by 10 and 8, of which t(0.975, 1) = 12.71.
    estimates = ["62.00 ± 25.41 (n=2)", "71.00 ± 12.71 (n=2)", "+9.00 ± 12.71 (n=2)"]
    assert lines["val %, last epoch"] == estimates
    assert "the configurations are the same" in call("diff", slow, slow)


def test_two_runs(call: Call, root: Path) -> None:
    first, second = (str(next(root.glob(f"lr0.01_*/seed={seed}"))) for seed in (1, 0))
    first = first.replace("cosine", "constant")
    out = call(
        "diff", str(next(root.glob("lr0.1_*/seed=0"))), str(next(root.glob("*cosine*/seed=0")))
    )
    assert "optimizer.lr" in out
    assert "failed" in out
    assert "-5.00" in out
    assert "neither a run" in call("diff", "nowhere", second, code=1)
