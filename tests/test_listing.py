"""`runs` as a list: columns, order, conditions, forms; and the difference of two runs or cells."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from made_up import change_record, make_run
from rich.console import Console

from resnet_cifar import text
from resnet_cifar.runs import listing
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


def test_the_result_comes_first_then_what_varies(call: Call) -> None:
    lines = call("list", "outputs").splitlines()
    head = "val %, lr, scheduler, seed, status, epochs, augm. %, cell, size, age"
    assert re.split(" {2,}", lines[0]) == head.split(", ")
    assert len(lines) == 1 + 5 + 1 + 1  # the heads, a line a run, the sum, the failed one's cause
    assert lines[1].split()[:3] == ["60.00", "0.01", "constant"]
    assert all("\x1b" not in line and "│" not in line for line in lines)  # plain in a pipe
    only = call("list", "outputs", "--where", "lr=0.1").splitlines()[0].split()
    assert only[:3] == ["val", "%", "seed"]  # within one cell nothing else varies


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make standard output a terminal of so many columns."""

    def make(width: int) -> None:
        monkeypatch.setattr(text, "on_terminal", lambda: True)
        console = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
        monkeypatch.setattr(text, "wide_console", lambda: Console(width=width, **console))

    return make


NUMBERS = {"val %", "lr", "weight_decay", "seed", "epochs", "augm. %", "±", "n", "size", "age"}


@pytest.mark.parametrize("arguments", [[], ["--group", "cell"], ["--columns", "lr,seed,cell,val"]])
@pytest.mark.parametrize("width", [30, 60, 80, 100, 120, 200])
def test_a_narrow_terminal_cuts_no_number_and_says_what_it_leaves_out(
    call: Call, root: Path, terminal: Callable[[int], None], width: int, arguments: list[str]
) -> None:
    wide = call("list", "outputs", *arguments).splitlines()
    heads, *table = [re.split(" {2,}", line) for line in wide if line.count("  ") > 1]
    terminal(width)
    out = call("list", "outputs", *arguments)
    note = re.search(r"(\d+) more columns?: ([^;]*); --columns picks, --csv has all", flat(out))
    left_out = note[2].split(", ") if note else []
    assert int(note[1] if note else 0) == len(left_out)
    kept = heads[: len(heads) - len(left_out)]
    assert kept
    assert kept + left_out == heads  # from the right, and whatever is not there is said
    assert not left_out or width < 200
    lines = out.splitlines()
    end = next(i for i, line in enumerate(lines) if re.match(r"\d+ (more column|run)", line))
    lines = lines[end - len(table) : end]
    assert all(len(line.rstrip()) <= width for line in lines)
    for line, row in zip(lines, table, strict=True):
        for name, whole in zip(kept, row, strict=False):
            if name in NUMBERS and whole != "-":
                assert whole.split()[0] in line.split()
            elif whole != "-":
                assert (whole if len(whole) <= text.WORD_WIDTH else whole[:5]) in line


def flat(out: str) -> str:
    return " ".join(out.split())


def test_names_lose_their_middle_and_stay_different() -> None:
    names = [
        f"lr{lr}_constant_wd{wd}_bn_15ep_w16-{i}{i}{i}{i}abcd"
        for i, (lr, wd) in enumerate((lr, wd) for lr in (0.1, 0.01, 0.001) for wd in (0, 1e-2))
    ]
    for width in (20, 24, 30, 40, 60):
        cut = text.cut_middles(names, width)
        assert all(len(name) <= width for name in cut)
        assert len(set(cut)) == len(names)
        assert all(name[:2] == "lr" for name in cut)
        assert not any(re.search("-[0-9a-f]{8}$", name) for name in cut) or width == 60
    same = ["a" * 30 + f"-0000000{i}" for i in range(3)]  # only the hash tells them apart
    assert len(set(text.cut_middles(same, 20))) == 3
    assert text.cut_middles(["short", "b-12345678"], 10) == ["short", "b-12345678"]


def test_heads_take_several_lines_before_a_column_goes(
    capsys: pytest.CaptureFixture[str], terminal: Callable[[int], None]
) -> None:
    heads, lines = ["val %", "weight_decay", "a_note"], [["87.00", "0.01", "words " * 10]]
    terminal(40)
    text.print_table(heads, lines, numbers=heads[:2])
    out = capsys.readouterr().out.splitlines()
    assert [line.split() for line in out[:2]] == [["weight_", "a_"], ["val", "%", "decay", "note"]]
    assert sum(line.count("words") for line in out) == 10  # where they may, words take lines
    terminal(16)
    text.print_table(heads, lines, numbers=heads[:2])
    assert flat(capsys.readouterr().out).endswith(
        "more column: a_note; a wider window or a pipe shows all"
    )


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
        (["lr>0.01"], 2),
        (["lr > 0.01"], 2),
        (["scheduler = cosine"], 1),
        (["lr>=0.01"], 5),
        (["optimizer.lr<1e-1"], 3),
        (["lr<=0.1"], 5),
        (["lr!=0.1"], 3),
        (["lr==0.1"], 2),
        (["lr>0.01", "lr<0.1"], 0),
        (["val>=0.7"], 2),
        (["val>0.6", "val<0.7"], 2),
        (["seed>0"], 2),
        (["status!=failed"], 4),
        (["status!=failed,completed"], 0),
        (["scheduler!=c*"], 0),
        (["scheduler=cosine, constant"], 5),
        (["scheduler!=cosine, constant"], 0),
        (["scheduler.eta_min=null"], 4),
        (["scheduler.eta_min!=0"], 4),
        (["error!=null"], 1),
        (["error=null"], 4),
        (["trainer.epochs>1e9"], 0),
    ],
)
def test_where(call: Call, conditions: list[str], n: int) -> None:
    arguments = [word for condition in conditions for word in ("--where", condition)]
    assert len(json.loads(call("list", "outputs", *arguments, "--json"))) == n


ROW = {
    "int": 3,
    "float": 0.5,
    "none": None,
    "nan": math.nan,
    "true": True,
    "text": "3",
    "list": "[1,2]",
}


@pytest.mark.parametrize(
    ("relation", "values", "met"),
    [
        (">", "0.4", {"int", "float"}),
        (">", "0.5", {"int"}),
        (">=", "0.5", {"int", "float"}),
        ("<", "3", {"float"}),
        ("<=", "3.0", {"int", "float"}),
        ("=", "3", {"int", "text"}),
        ("=", "null", {"none"}),
        ("=", "true", {"true"}),
        ("=", "1,2", set()),
        ("=", "[1,2]", {"list"}),
        ("!=", "3", set(ROW) - {"int", "text"}),
        ("!=", "null", set(ROW) - {"none"}),
        ("!=", "3,0.5", set(ROW) - {"int", "text", "float"}),
    ],
)
def test_a_condition_is_about_numbers_only_where_it_says_so(
    relation: str, values: str, met: set[str]
) -> None:
    """No order has null, NaN, true or text; a key that is not there is null."""
    assert {key for key in ROW if listing.meets(ROW, key, relation, values)} == met
    assert listing.meets(ROW, "other", relation, values) == ("none" in met)


def test_groups_have_means_of_completed_runs_and_count_the_others(call: Call, root: Path) -> None:
    lr = [*TINY, "optimizer.lr=0.1"]
    make_run(root, lr, 2, 0.77)
    make_run(root, lr, 3, status="diverged", curve=[0.9])
    make_run(root, lr, 4, status="failed", curve=[0.9])
    shutil.copytree(next(root.glob("lr0.1_*/seed=1")), root / "a copy")  # is not counted
    first, second, third = json.loads(call("list", "outputs", "--group", "cell", "--json"))
    assert first["optimizer.lr"] == 0.1
    assert (first["n"], first["diverged"], first["failed"]) == (3, 1, 1)
    assert first["accuracy/val"] == pytest.approx((0.70 + 0.72 + 0.77) / 3)  # best first
    assert first["accuracy/val_interval"] == pytest.approx(4.302653 * 0.036056 / 3**0.5, rel=1e-3)
    assert (second["n"], second["accuracy/val"]) == (2, pytest.approx(0.62))
    assert "accuracy/val_interval" not in second  # two say next to nothing
    assert (third["n"], third["failed"], third.get("accuracy/val")) == (0, 1, None)
    assert "seed" not in first
    lines = call("list", "outputs", "--group", "cell").splitlines()
    assert lines[0].split()[:6] == ["val", "%", "±", "n", "lr", "scheduler"]
    assert lines[1].split()[:7] == ["73.00", "8.96", "3", "0.1", "constant", "1", "1"]
    table = csv.DictReader(io.StringIO(call("list", "outputs", "--group", "cell", "--csv")))
    assert [row["n"] for row in table] == ["3", "2", "0"]
    # Several cells in a group: their runs are no sample of anything, so no interval.
    (all_,) = json.loads(call("list", "outputs", "--group", "data", "--json"))
    assert (all_["n"], all_["cells"]) == (5, 3)
    assert "accuracy/val_interval" not in all_
    rows = json.loads(call("list", "outputs", "--group", "lr", "--sort", "lr", "--json"))
    assert [row["optimizer.lr"] for row in rows] == [0.01, 0.1]


def test_a_metric_that_some_runs_lack_is_no_mean_beside_their_n(call: Call, root: Path) -> None:
    for seed, averaged in ((0, None), (1, 0.7), (2, 0.8)):
        make_run(root, [*TINY, "optimizer.lr=1"], seed, 0.9, averaged=averaged)
    best, *_ = json.loads(call("list", "outputs", "--group", "cell", "--json"))
    assert (best["n"], best["accuracy/val_ema"]) == (3, None)
    assert "accuracy/val_ema_interval" not in best
    assert call("list", "outputs", "--group", "cell", "--columns", "n,accuracy/val_ema")


def test_a_cell_under_two_labels_is_one_group(call: Call, root: Path) -> None:
    """Runs of an earlier version of the program, or copied from elsewhere."""
    cell = next(root.glob("lr0.1_*"))
    earlier = root / f"earlier-{cell.name.rpartition('-')[2]}"
    earlier.mkdir()
    (cell / "seed=1").rename(earlier / "seed=1")
    best, *_ = json.loads(call("list", "outputs", "--group", "cell", "--json"))
    assert (best["n"], best["cells"], best["accuracy/val"]) == (2, 1, pytest.approx(0.71))
    assert best["cell"] in (cell.name, earlier.name)
    (everything,) = json.loads(call("list", "outputs", "--group", "data", "--json"))
    assert everything["cells"] == 3


@pytest.mark.parametrize(
    ("name", "key"),
    [("val", "accuracy/val"), ("loss", "loss/val"), ("accuracy", "accuracy/val"),
     ("val_augmented", "accuracy/val_augmented"), ("lr", "optimizer.lr"), ("epochs", "epochs")],
)  # fmt: skip
def test_short_names_are_keys(call: Call, name: str, key: str) -> None:
    assert list(json.loads(call("list", "outputs", "--columns", name, "--json"))[0]) == [key]


def test_accuracies_are_sorted_best_first_and_all_else_from_small_to_large(call: Call) -> None:
    def order(key: str, *more: str) -> list[float]:
        rows = json.loads(call("list", "outputs", "--sort", key, *more, "--json"))
        return [row["accuracy/val"] if key == "val" else row["optimizer.lr"] for row in rows]

    assert order("val") == [0.72, 0.70, 0.65, 0.64, 0.60]
    assert order("val", "--reverse") == [0.60, 0.64, 0.65, 0.70, 0.72]
    assert order("lr") == [0.01, 0.01, 0.01, 0.1, 0.1]
    assert order("lr", "--reverse") == [0.1, 0.1, 0.01, 0.01, 0.01]


def test_a_long_cause_is_cut_to_a_line(
    call: Call, root: Path, terminal: Callable[[int], None]
) -> None:
    run = next(root.glob("*cosine*/seed=0"))
    change_record(run, error="OSError: " + "no space on this disk; " * 20 + "free some")
    terminal(80)
    *_, name, cause = call("list", "outputs").splitlines()
    assert name == f"{run} failed (all of it: train.log):"
    assert len(cause) <= 80
    assert cause.startswith("  OSError: no space")
    assert cause.endswith("free some")  # the end often says what to do


def test_order_columns_and_forms(call: Call) -> None:
    shown = ["--columns", "lr,seed,accuracy/val"]
    best = ["--sort", "accuracy/val"]
    lines = call("list", "outputs", *best, *shown).splitlines()
    assert [" ".join(line.split()) for line in lines[1:3]] == ["0.1 1 72.00", "0.1 0 70.00"]
    rows = list(csv.DictReader(io.StringIO(call("list", "outputs", *best, *shown, "--csv"))))
    assert rows[0] == {"optimizer.lr": "0.1", "seed": "1", "accuracy/val": "0.72"}
    whole = list(csv.DictReader(io.StringIO(call("list", "outputs", "--csv"))))
    assert len(whole) == 5
    assert {"status", "optimizer.lr", "best/accuracy/val", "seconds", "age"} <= whole[0].keys()
    assert json.loads(call("list", "outputs", "--json", *shown, *best))[0]["seed"] == 1


def test_keys_may_be_given_one_by_one(call: Call) -> None:
    columns = ("--columns", "lr", "--columns", "val")
    assert call("list", "outputs", *columns, "--csv").startswith("optimizer.lr,accuracy/val\n")
    groups = call("list", "outputs", "--group", "lr", "--group", "scheduler", "--csv")
    assert len(groups.splitlines()) == 1 + 3


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
        (["--where", "epochs=2", "--columns", "detach,vall"], "did you mean val?"),
        (["--sort", "momentum"], "momentum may be norm.momentum or optimizer.momentum"),
        (["--where", "scheduler>1"], "scheduler is no number: constant, cosine"),
        (["--where", "optimizer.nesterov<1"], "optimizer.nesterov is no number: false"),
        (["--where", "val<20"], "val<20: must be a fraction, 0 to 1; 20 % is val<0.2"),
        (["--where", "best/accuracy/val>=87.5"], "87.5 % is best/accuracy/val>=0.875"),
        (["--where", "lr>fast"], "needs one number"),
        (["--where", "lr>nan"], "needs one number"),
        (["--where", "lr>0.1,0.2"], "needs one number"),
        (["--where", "lr=>0.1"], "key=value"),
    ],
)
def test_refused(call: Call, arguments: list[str], said: str) -> None:
    usage = said in ("key=value", "--columns", "needs one number")
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


def test_two_cells(call: Call, root: Path, terminal: Callable[[int], None]) -> None:
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
    assert "B - A over the seeds that both have, pair by pair" in out
    assert "pair by pair" not in call("diff", f"{slow}/seed=0", fast)
    assert "the configurations are the same" in call("diff", slow, slow)
    terminal(80)
    narrow = call("diff", slow, fast)
    assert "more column" not in narrow  # B - A is the answer
    assert all(number in narrow for line in estimates for number in line.split(" (")[:1])


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
