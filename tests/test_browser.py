"""The report's page in a real browser. Skipped where there is no Chromium."""

import html
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import make_run

from resnet_cifar.report.__main__ import main

_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in _NAMES if (found := shutil.which(name))), "")
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium here to open the page in")

# JavaScript run in the page, in this order; each returns what the test of its name looks at.
CHECKS = {
    "first_screen": """
      const place = (selector) => document.querySelector(selector).getBoundingClientRect();
      const marks = [...document.querySelectorAll(".columns .verdicts .mark")];
      const fold = document.querySelector(".columns > div > details");
      return { verdicts: place(".verdicts").bottom, table: place(".columns table").bottom,
               figure: place(".columns figure").top, height: document.body.scrollHeight,
               marks: marks.map((mark) => mark.textContent),
               fold: [fold.open, fold.querySelector("summary").textContent] };
    """,
    "sections": """
      const folds = [...document.querySelectorAll("details.section")];
      const closed = folds.filter((fold) => !fold.open);
      const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map((h) => +h.tagName[1]);
      const link = [...document.querySelectorAll("nav a")]
        .find((a) => closed.some((fold) => fold.querySelector(a.hash)));
      const target = document.querySelector(link.hash);
      const before = target.checkVisibility({ contentVisibilityAuto: true });
      link.click();
      const fold = target.closest("details");
      fold.open = false; // some browsers have opened it by themselves
      dispatchEvent(new HashChangeEvent("hashchange")); // a link's own comes later
      const opened = fold.open;
      const contents = document.querySelector("nav ol").checkVisibility();
      dispatchEvent(new Event("beforeprint"));
      const printed = document.querySelectorAll("details:not([open])").length;
      dispatchEvent(new Event("afterprint"));
      const after = document.querySelectorAll("details:not([open])").length;
      return { closed: closed.length, before, opened, printed, after, contents, levels };
    """,
    "overflow": """
      document.querySelectorAll("details").forEach((fold) => { fold.open = true; });
      const inside = document.documentElement.clientWidth;
      const over = [...document.querySelectorAll("body *")]
        .filter((element) => !element.parentElement.closest(".scroll, .plot"))
        .filter((element) => element.getBoundingClientRect().right > inside + 1)
        .map((element) => element.outerHTML.slice(0, 80));
      // What scrolls sideways says so by a shadow at its edge, and can be reached by keyboard.
      const unsaid = [...document.querySelectorAll(".scroll, .plot")]
        .filter((element) => element.scrollWidth > element.clientWidth + 1)
        .filter((element) => element.tabIndex < 0 ||
          !getComputedStyle(element).backgroundImage.includes("gradient"))
        .map((element) => element.outerHTML.slice(0, 80));
      return { inside, all: document.documentElement.scrollWidth, over, unsaid };
    """,
    "runs": """
      const table = document.querySelector("table.filter[data-plot='lr']");
      const heads = [...table.tHead.rows[0].cells];
      const head = heads.find((each) => /^val\\s%/.test(each.textContent));
      const scroll = table.parentElement;
      const before = table.rows[1].cells[0].getBoundingClientRect().left;
      scroll.scrollLeft = 200;
      return { titles: heads.map((each) => each.textContent.replace("\u00a0", " ")),
               right: head.getBoundingClientRect().right,
               moved: table.rows[1].cells[0].getBoundingClientRect().left - before };
    """,
    "scatter": """
      const figure = document.querySelector(".scatter");
      const [across, up] = figure.querySelectorAll("select");
      const name = (select) => select.selectedOptions[0].text.replace("\u00a0", " ");
      const places = () => [...figure.querySelectorAll("circle:not(.mark-point)")]
        .map((dot) => ["cx", "cy"].map((key) => Math.round(dot.getAttribute(key))));
      const first = { across: name(across), up: name(up), places: places() };
      const labels = [...figure.querySelectorAll("text")].map((text) => text.textContent);
      const names = [...across.options].map((option) => option.textContent);
      const plot = figure.querySelector(".plot");
      plot.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown" }));
      const tip = figure.querySelector(".tip").textContent.replace("\u00a0", " ");
      up.value = across.value;
      up.dispatchEvent(new Event("change"));
      return { ...first, labels, names, tip, same: places() };
    """,
    "sort": """
      const table = document.querySelector("table.sortable");
      const heads = [...table.tHead.rows[0].cells];
      const column = heads.findIndex((head) => /^val\\s%/.test(head.textContent));
      const cells = () => [...table.tBodies[0].rows].map((row) => row.cells[column].textContent);
      const button = heads[column].querySelector("button");
      const look = () => [cells(), heads[column].getAttribute("aria-sort")];
      const before = cells();
      button.click();
      const down = look();
      button.click();
      return { before, down, up: look() };
    """,
    "filter": """
      const field = document.querySelector("input.rows");
      const rows = [...document.querySelector("table.filter").tBodies[0].rows];
      field.value = "0.01 completed";
      field.dispatchEvent(new Event("input"));
      return { all: rows.length, left: rows.filter((row) => !row.hidden).length };
    """,
    "pointer": """
      const panels = (each) => JSON.parse(each.textContent);
      const script = [...document.querySelectorAll("script.points")]
        .find((each) => panels(each)[0].lines[0].epoch.length);
      const panel = panels(script)[0];
      const line = panel.lines[0];
      const figure = script.closest("figure");
      const plot = figure.querySelector(".plot");
      const svg = plot.querySelector("svg");
      const tip = plot.querySelector(".tip");
      const hidden = tip.hidden;
      const at = new DOMPoint(line.x[1], line.y[1]).matrixTransform(svg.getScreenCTM());
      plot.dispatchEvent(new PointerEvent("pointermove", { clientX: at.x + 1, clientY: at.y }));
      const text = tip.textContent;
      plot.dispatchEvent(new PointerEvent("pointerleave"));
      const gone = tip.hidden;
      plot.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
      const far = (path) => {
        const pairs = (path.getAttribute("d") ?? "").match(/-?[0-9.]+ -?[0-9.]+/g) ?? [];
        const places = pairs.map((pair) => pair.split(" ").map(Number));
        return Math.max(...line.x.map((x, i) =>
          Math.min(...places.map(([a, b]) => Math.hypot(a - x, b - line.y[i])))));
      };
      return { hidden, text, gone, keys: tip.textContent, line, title: panel.title,
               far: Math.min(...[...figure.querySelectorAll("path")].map(far)) };
    """,
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on five learning rates at three seeds, and on a run with long values that failed."""
    root = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    rates = (("0.001", 0.7), ("0.005", 0.84), ("0.01", 0.86), ("0.05", 0.85), ("0.1", 0.83))
    for lr, last in rates:
        for seed in range(3):
            curve = [last - 0.3 / epoch + rng.normal(0, 0.002) for epoch in range(1, 6)]
            overrides = ["model.width=16", "trainer.epochs=5", f"optimizer.lr={lr}"]
            make_run(root, overrides, seed, curve[-1], curve=curve)
    failed = ["optimizer.momentum=0.123456789", "optimizer.nesterov=true", "trainer.batch_size=64"]
    make_run(root, failed, 0, status="failed")
    make_run(root, ["model.width=16", "trainer.epochs=5", "scheduler=cosine"], 0, 0.87)
    to = tmp_path_factory.mktemp("report")
    assert main([str(root), "--to", str(to), "--quiet"]) == 0
    return to / "report.html"


def browser(page: Path, *arguments: str) -> str:
    profile = f"--user-data-dir={page.with_name('profile')}"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--hide-scrollbars", "--allow-file-access-from-files", profile, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def look(page: Path, width: int) -> dict[str, Any]:
    """What the checks return in the page at a width in pixels.

    The page is framed: a headless window is never narrower than 500 pixels, a frame is.
    """
    calls = "".join(f"{name}: (() => {{{body}}})(),\n" for name, body in CHECKS.items())
    probe = (
        '<script>addEventListener("load", () => {\n'
        f"document.body.dataset.seen = JSON.stringify({{ {calls} }}); }});</script></body>"
    )
    inner, frame = page.with_name("probed.html"), page.with_name("frame.html")
    inner.write_text(page.read_text().replace("</body>", probe))
    frame.write_text(
        "<!doctype html><meta charset=utf-8><body style='margin:0'>"
        f"<iframe id=f src=probed.html style='border:0;width:{width}px;height:900px'></iframe>"
        "<script>addEventListener('load', () => { document.body.dataset.result ="
        "f.contentDocument.body.dataset.seen; });</script>"
    )
    shown = browser(page, "--window-size=1500,1000", "--dump-dom", frame.as_uri())
    found = re.search(r'data-result="([^"]*)"', shown)
    assert found, shown[:2000]
    seen: dict[str, Any] = json.loads(html.unescape(found.group(1)))
    return seen


@pytest.fixture(scope="module")
def wide(page: Path) -> dict[str, Any]:
    return look(page, 1400)


def test_a_table_is_sorted(wide: dict[str, Any]) -> None:
    seen = wide["sort"]
    values = [float(text.split()[0]) for text in seen["down"][0]]
    assert len(values) == 5
    assert values == sorted(values, reverse=True)
    assert seen["up"][0] == seen["down"][0][::-1]
    assert (seen["down"][1], seen["up"][1]) == ("descending", "ascending")
    assert sorted(seen["before"]) == sorted(seen["up"][0])


def test_rows_are_filtered(wide: dict[str, Any]) -> None:
    assert wide["filter"]["all"] > wide["filter"]["left"] > 0


def test_a_curve_tells_run_epoch_and_value(wide: dict[str, Any]) -> None:
    seen = wide["pointer"]
    line = seen["line"]
    assert seen["hidden"]
    assert seen["gone"]
    assert seen["text"] == f"{line['label']}epoch 2{seen['title']}: {line['value'][1]}"
    assert f"epoch {line['epoch'][-1]}" in seen["keys"]
    assert seen["far"] < 0.2  # the places given to the pointer are those of a drawn line


def test_nothing_overflows_with_all_sections_open(page: Path, wide: dict[str, Any]) -> None:
    for width, seen in ((1400, wide["overflow"]), (420, look(page, 420)["overflow"])):
        assert seen == {"inside": width, "all": width, "over": [], "unsaid": []}


def test_the_first_screen_answers(wide: dict[str, Any]) -> None:
    """Verdicts, the ranked table and the overview figure within 900 pixels."""
    seen = wide["first_screen"]
    assert max(seen["verdicts"], seen["table"], seen["figure"] + 100) < 900
    assert seen["marks"] == ["✓ holds"]
    assert seen["fold"] == [False, "2 undecided: what would decide them"]


def test_a_link_and_paper_open_what_is_folded(page: Path, wide: dict[str, Any]) -> None:
    for width, seen in ((1400, wide["sections"]), (420, look(page, 420)["sections"])):
        assert seen["closed"] > 2
        assert (seen["before"], seen["opened"]) == (False, True)
        assert seen["printed"] == 0
        assert seen["after"] > 2
        assert seen["contents"] == (width == 1400)  # beside the page, or behind a bar
        steps = zip(seen["levels"], seen["levels"][1:], strict=False)
        assert all(below <= above + 1 for above, below in steps)


def test_numbers_come_first_among_all_runs_and_stay_in_sight(wide: dict[str, Any]) -> None:
    seen = wide["runs"]
    assert seen["right"] < 1400
    assert seen["titles"][0].startswith("val %")
    assert seen["titles"][-1].startswith("run")
    assert abs(seen["moved"]) < 1


def test_two_columns_are_plotted(wide: dict[str, Any]) -> None:
    seen = wide["scatter"]
    assert (seen["across"], seen["up"]) == ("lr", "val %")
    assert "run" not in seen["names"]
    assert len(seen["places"]) == 17  # every run
    columns = sorted({x for x, _ in seen["places"]})
    assert len(columns) == 5
    steps = [right - left for left, right in itertools.pairwise(columns)]
    # 0.001, 0.005, 0.01, 0.05, 0.1: over a factor of 20, so that 5 and 2 alternate.
    assert steps[0] == pytest.approx(steps[2], abs=2)
    assert steps[1] == pytest.approx(steps[3], abs=2)
    assert steps[0] > 2 * steps[1]
    assert {"0.001", "0.005", "0.01", "0.05", "0.1", "lr"} <= set(seen["labels"])
    assert "val %: " in seen["tip"]
    assert ", lr: 0." in seen["tip"]
    assert all(abs((x - 70) / 620 - (310 - y) / 300) < 0.01 for x, y in seen["same"])


def test_on_paper_nothing_is_folded_and_heads_are_repeated(page: Path, tmp_path: Path) -> None:
    """Also without the script, as the browser lays the page out for print."""
    inner = re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.DOTALL)
    inner = inner.replace("<details open", "<details")
    probe = """<script>addEventListener("load", () => {
      const seen = { contentVisibilityAuto: true, contentVisibilityProperty: true };
      const cells = [...document.querySelectorAll("td")];
      document.body.dataset.result = cells.filter((cell) => !cell.checkVisibility(seen)).length;
    });</script>"""
    screen = tmp_path / "screen.html"
    screen.write_text(inner.replace("</body>", f"{probe}</body>"))
    paper = tmp_path / "paper.html"
    paper.write_text(screen.read_text().replace("@media print", "@media all"))
    hidden = [
        int(re.findall(r'data-result="(\d+)"', browser(each, "--dump-dom", each.as_uri()))[0])
        for each in (screen, paper)
    ]
    assert hidden[0] > 50
    assert hidden[1] == 0


def test_it_can_be_printed(page: Path) -> None:
    to = page.with_name("report.pdf")
    browser(page, f"--print-to-pdf={to}", page.as_uri())
    assert to.read_bytes().startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", to.read_bytes()))
    assert 3 <= pages <= 9
