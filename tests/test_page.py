"""The report's page and its figures as text; test_browser.py opens it."""

import html.parser
import json
import re
from typing import Any

import pandas as pd
from hypothesis import assume, example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from resnet_cifar.report import figures
from resnet_cifar.report.document import (
    MARKS,
    Fold,
    Item,
    Part,
    Picture,
    Report,
    Table,
    escape,
    heading,
    listing,
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


def report(*parts: Part) -> Report:
    return Report("Title", "", rest=parts)


def read_points(page: str) -> list[dict[str, Any]]:
    """The panels that a page tells the values of."""
    (script,) = re.findall(r'<script type="application/json" class="points">(.*?)</script>', page)
    panels: list[dict[str, Any]] = json.loads(script)
    return panels


def test_dots_that_are_named_tell_their_value_by_the_axis_they_lie_along() -> None:
    with figures.panels(3, 2) as (figure, axis):
        axis.plot([87.5, 88.25], [0, 0], "o", label="lr 0.1")
        axis.plot([80, 90], [0, 0])  # an interval: nothing to point at
        axis.set_xlabel("accuracy (%)")
    picture = Picture("overview", figure, "Dots.")
    (panel,) = read_points(render_page(report(picture)))
    assert panel["title"] == "accuracy (%)"
    (line,) = panel["lines"]
    assert (line["label"], line["value"], line["epoch"]) == ("lr 0.1", ["87.5", "88.25"], [])


def curves(points: int) -> Picture:
    with figures.panels(3, 2) as (figure, axis):
        axis.plot(range(1, points + 1), [1 / n for n in range(1, points + 1)], label="lr <0.1>")
        axis.plot([1, points], [0, 1])  # without a name: nothing to point at
        axis.set_ylabel("accuracy (%)")
        figures.label_epochs(axis)
    return Picture("curves", figure, "Curves.")


def test_a_line_that_is_pointed_at_is_thinned_and_keeps_its_ends() -> None:
    ((line,),) = [panel["lines"] for panel in read_points(render_page(report(curves(1000))))]
    assert line["label"] == "lr <0.1>"
    assert len(line["x"]) == len(line["y"]) == len(line["value"]) == 60
    assert (line["epoch"][0], line["epoch"][-1]) == (1, 1000)
    assert (line["value"][0], line["value"][-1]) == ("1", "0.001")
    assert line["y"] == sorted(line["y"])  # falls: further down on the page


def test_what_a_person_wrote_is_text_on_the_page() -> None:
    evil = "<img src=x onerror=alert(1)> $x$ [red] \x1b[2J"
    items = [Item(["undecided"], evil, evil, [Item([], evil, evil)])]
    parts = [
        heading(evil),
        escape(evil),
        listing([evil], "> - "),
        items,
        Fold(evil, [escape(evil)], 2),
    ]
    for page in (
        render_page(Report(evil, evil, parts[:2], parts[2:], parts)),
        render_notebook(parts),
    ):
        assert "<img" not in page
        assert "\x1b" not in page
        assert "&lt;img src=x onerror=alert(1)&gt; $x$ [red]" in page
        assert "? undecided" in page  # told by words and a sign, not by colour alone
    written = Report(evil, evil, parts).markdown()
    assert "<img" not in written
    assert "\x1b" not in written


QUESTION = "Which is best?"
SECTIONS = [
    Fold("How to read this", ["words"], 2),
    Fold(
        "Question by question",
        [Fold(f"{QUESTION} – width {width}", ["words"], 3, open=width == 8) for width in (8, 16)],
        2,
        open=True,
    ),
]


def test_contents_follow_the_first_screen_and_list_questions_below_their_section() -> None:
    page = render_page(Report("Title", "", [heading("Claims")], [heading("Best")], SECTIONS))
    assert page.index("Best") < page.index("<nav") < page.index("<h2>How to read this</h2>")
    links = re.findall('<a href="#(.*?)">(.*?)</a>', page)
    assert links == [
        ("how-to-read-this", "How to read this"),
        ("question-by-question", "Question by question"),
        ("which-is-best-width-8", "Which is best? – width 8"),
        ("which-is-best-width-16", "width 16"),  # the same question in another setting
    ]
    for place, _ in links:
        assert page.count(f'id="{place}"') == 1


def test_sections_fold_and_what_a_link_leads_to_lies_inside() -> None:
    """So a browser opens it by itself; and a heading's level follows the one above."""
    page = render(SECTIONS)
    assert re.findall("<details class=.section.( open)?><summary><h(.)>(.*?)</h", page) == [
        ("", "2", "How to read this"),
        (" open", "2", "Question by question"),
        (" open", "3", f"{QUESTION} – width 8"),
        ("", "3", f"{QUESTION} – width 16"),
    ]
    assert page.count("</summary><div id=") == 4


def test_a_table_s_class_is_by_its_width() -> None:
    """On paper a wide one gets a page on its side; the plotted column is told to the script."""
    for columns, wide in ((3, False), (9, True)):
        frame = pd.DataFrame({f"column {i}": ["a few words of text"] for i in range(columns)})
        table = Table("t", frame, {key: key for key in frame}, plot="column <1>")
        page = render([table])
        assert ('class="scroll wide"' in page) == wide
        assert 'data-plot="column &lt;1&gt;"' in page


def test_headings_that_repeat_have_no_place_of_their_own() -> None:
    page = render([heading("Method"), heading("Calibration", 4), heading("Calibration", 4)])
    assert "id=" not in page


def test_no_line_breaks_inside_a_number_and_its_unit() -> None:
    said = "9.1 ± 0.2 % (n = 3)"
    shown = "9.1\u00a0±\u00a00.2\u00a0% (n\u00a0=\u00a03)"
    frame = pd.DataFrame({said: [said]})
    parts = [heading(said), escape(said), listing([said], "> - "), [Item([], said, said)]]
    parts += [Fold(said, [], 2), Fold(said, []), Table("t", frame, {said: said}, said)]
    written = Report(said, said, parts)
    for text in (render_page(written), written.markdown()):
        assert text.count(shown) >= 11
        assert said not in text
    assert said in frame.to_csv()


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


def read_markdown(markdown: str) -> list[SyntaxTreeNode]:
    return SyntaxTreeNode(MarkdownIt("commonmark", {"html": False}).parse(markdown)).children


def plain(text: str) -> str:
    """The text with its no-break spaces, which stand in no text of one's own, as plain ones."""
    return text.replace("\u00a0", " ")


def plain_text(node: SyntaxTreeNode) -> str:
    """The text of a block of Markdown without its marks, that of links and images included."""
    return plain("".join(each.content for each in node.walk() if each.type == "text")).strip()


def read_page(parts: list[Part], name: str) -> tuple[list[str], set[str]]:
    """The texts of the page's elements of a name, and the names of all its elements."""
    page = _Text(name)
    page.feed(render(parts))
    return list(map(plain, page.texts[1:])), page.tags


@given(st.one_of(st.text(max_size=30), _ODD))
@example("1. a")
@example("95 % (n = 3)")
@example("a #")
@example("a\\|b")
def test_any_text_comes_through_markdown_to_the_page(text: str) -> None:
    shown = printable(text)
    assume(text != "b" and shown not in MARKS)
    assert read_page([heading(text)], "h2") == ([shown], {"h2"})
    if shown:
        assert read_page([escape(text)], "p") == ([shown], {"p"})
        image, caption = read_markdown(Picture("p", figures.Figure(), text).markdown())
        assert plain_text(caption) == shown
        assert [node.type for node in image.children[0].children] == ["image"]
    texts, tags = read_page([listing([text], "> - ")], "li")
    assert (texts, tags) == ([shown], {"aside", "ul", "li"})
    frame = pd.DataFrame({"a": [text], "b": ["x"]})
    table = Table("t", frame, {"b": "b", text: "a"}, words=("b",))
    texts, tags = read_page([table], "td")
    assert texts == ["x", shown]
    assert tags == {"div", "table", "thead", "tr", "th", "tbody", "td"}
    assert read_page([table], "th")[0] == ["b", shown]
    item = Item(["holds"], f"a claim {text}", f"Here: {text}")
    (listed,) = read_markdown(item.markdown())[0].children
    sentence, grounds = printable(item.sentence), printable(item.grounds)
    assert plain_text(listed) == f"✓ holds: {sentence}. {grounds}".strip()
    assert read_page([[item]], "div")[0] == [f"{sentence} "]
    assert read_page([[item]], "small")[0] == [grounds]
