"""The report's page and its figures as text; test_browser.py opens it."""

import html.parser
import json
import re

import pandas as pd
from hypothesis import assume, example, given
from hypothesis import strategies as st

from resnet_cifar.report import figures
from resnet_cifar.report.document import (
    MARKS,
    Part,
    Picture,
    Report,
    Table,
    escape,
    heading,
    note_line,
    parse,
    plain_text,
    read_verdict,
    verdict_line,
)
from resnet_cifar.report.page import render, render_notebook, render_page
from resnet_cifar.text import printable


def test_a_drawing_keeps_what_it_says() -> None:
    """Places are shortened to a hundredth of a point, words and numbers people read are not."""
    with figures.panels(3, 2) as (figure, axis):
        axis.set_title("weight decay 0.0005")
        axis.plot([1 / 3, 2 / 3], [1 / 7, 2 / 7])
    drawing = figures.draw_svg(figure)
    assert ">weight decay 0.0005<" in drawing
    assert not re.search(r'd="[^"]*\d\.\d{3}', drawing)


def curves(points: int) -> Picture:
    with figures.panels(3, 2) as (figure, axis):
        axis.plot(range(1, points + 1), [1 / n for n in range(1, points + 1)], label="lr <0.1>")
        axis.plot([1, points], [0, 1])  # without a name: nothing to point at
        axis.set_ylabel("accuracy (%)")
        figures.label_epochs(axis)
    return Picture("curves", figure, "Curves.")


def test_a_line_that_is_pointed_at_is_thinned_and_keeps_its_ends() -> None:
    page = render_page(Report("Title", "", [curves(1000)]))
    (script,) = re.findall(r'<script type="application/json" class="points">(.*?)</script>', page)
    ((line,),) = [panel["lines"] for panel in json.loads(script)]
    assert line["label"] == "lr <0.1>"
    assert len(line["x"]) == len(line["y"]) == len(line["value"]) == 60
    assert (line["epoch"][0], line["epoch"][-1]) == (1, 1000)
    assert (line["value"][0], line["value"][-1]) == ("1", "0.001")
    assert line["y"] == sorted(line["y"])  # falls: further down on the page


def test_what_a_person_wrote_is_text_on_the_page() -> None:
    evil = "<img src=x onerror=alert(1)> $x$ [red] \x1b[2J"
    verdict = verdict_line("undecided", evil, evil)
    parts = [heading(evil), escape(evil), note_line(evil), verdict]
    for page in (
        render_page(Report(evil, evil, parts[:2], parts[2:], parts)),
        render_notebook(parts),
    ):
        assert "<img" not in page
        assert "\x1b" not in page
        assert "&lt;img src=x onerror=alert(1)&gt; $x$ [red]" in page
        assert "? undecided" in page  # told by words and a sign, not by colour alone


def test_contents_follow_the_first_screen() -> None:
    report = Report(
        "Title", "", [heading("Claims")], [heading("Best")], [heading("Method"), "words"]
    )
    page = render_page(report)
    assert page.index("Best") < page.index("<nav") < page.index('<h2 id="method"')
    assert page.count('href="#') == 1


def test_headings_that_repeat_have_no_place_of_their_own() -> None:
    page = render([heading("Method"), heading("Calibration", 4), heading("Calibration", 4)])
    assert re.findall('id="(.*?)"', page) == ["method"]


# Any text, and more often what Markdown and HTML would obey.
_ODD = st.text("#-+=*_`[]()<>&!|~$\\\"'.:1 aé\n\t\u202e", max_size=12)


class _Text(html.parser.HTMLParser):
    """Collects the text of the elements of one name, and the names of all."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.inside, self.texts, self.tags = name, False, [""], set[str]()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        self.inside = tag == self.name
        self.texts += [""] * self.inside

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data


def read_page(parts: list[Part], name: str) -> tuple[list[str], set[str]]:
    """The texts of the page's elements of a name, and the names of all its elements."""
    page = _Text(name)
    page.feed(render(parts))
    return page.texts[1:], page.tags


@given(st.one_of(st.text(max_size=30), _ODD))
@example("1. a")
@example("a #")
@example("a\\|b")
def test_any_text_comes_through_markdown_to_the_page(text: str) -> None:
    shown = printable(text)
    assume(text != "b" and shown not in MARKS)
    assert read_page([heading(text)], "h2") == ([shown], {"h2"})
    if shown:
        assert read_page([escape(text)], "p") == ([shown], {"p"})
        image, caption = parse(Picture("p", figures.Figure(), text).markdown())
        assert plain_text(caption) == shown
        assert [node.type for node in image.children[0].children] == ["image"]
    texts, tags = read_page([note_line(text)], "li")
    assert (texts, tags) == ([shown], {"aside", "ul", "li"})
    frame = pd.DataFrame({"a": [text], "b": ["x"]})
    table = Table("t", frame, {"b": "b", text: "a"}, words=("b",))
    texts, tags = read_page([table], "td")
    assert texts == ["x", shown]
    assert tags == {"div", "table", "thead", "tr", "th", "tbody", "td"}
    assert read_page([table], "th")[0] == ["b", shown]
    (item,) = parse(verdict_line("holds", "a claim", f"Here: {text}"))[0].children
    assert read_verdict(item) == ("holds", "a claim", f"Here: {shown}".strip())
