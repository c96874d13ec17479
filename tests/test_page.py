"""The report's page and its figures as text; test_browser.py opens it."""

import json
import re

from resnet_cifar.report import canvas
from resnet_cifar.report.document import (
    Columns,
    Document,
    Heading,
    Notes,
    Picture,
    Text,
    Verdict,
    Verdicts,
)
from resnet_cifar.report.page import Shown, to_html


def test_a_drawing_keeps_what_it_says() -> None:
    """Places are shortened to a hundredth of a point, words and numbers people read are not."""
    with canvas.panels(3, 2) as (figure, axis):
        axis.set_title("weight decay 0.0005")
        axis.plot([1 / 3, 2 / 3], [1 / 7, 2 / 7])
    drawing = canvas.svg(figure)
    assert ">weight decay 0.0005<" in drawing
    assert not re.search(r'd="[^"]*\d\.\d{3}', drawing)


def curves(points: int) -> Picture:
    with canvas.panels(3, 2) as (figure, axis):
        axis.plot(range(1, points + 1), [1 / n for n in range(1, points + 1)], label="lr <0.1>")
        axis.plot([1, points], [0, 1])  # without a name: nothing to point at
        axis.set_ylabel("accuracy (%)")
        canvas.epochs(axis)
    return Picture("curves", figure, "Curves.")


def test_a_line_that_is_pointed_at_is_thinned_and_keeps_its_ends() -> None:
    page = to_html(Document("Title", "", [curves(1000)]))
    (script,) = re.findall(r'<script type="application/json" class="points">(.*?)</script>', page)
    ((line,),) = [panel["lines"] for panel in json.loads(script)]
    assert line["label"] == "lr <0.1>"
    assert len(line["x"]) == len(line["y"]) == len(line["value"]) == 60
    assert (line["epoch"][0], line["epoch"][-1]) == (1, 1000)
    assert (line["value"][0], line["value"][-1]) == ("1", "0.001")
    assert line["y"] == sorted(line["y"])  # falls: further down on the page


def test_what_a_person_wrote_is_text_on_the_page() -> None:
    evil = "<img src=x onerror=alert(1)> $x$ [red] \x1b[2J"
    verdict = Verdict("undecided", evil, evil)
    blocks = [Heading(evil), Text(evil), Notes((evil,)), Verdicts((verdict,))]
    for page in (
        to_html(Document(evil, evil, [Columns(blocks[:2], blocks[2:]), *blocks])),
        Shown(*blocks)._repr_html_(),
    ):
        assert "<img" not in page
        assert "\x1b" not in page
        assert "&lt;img src=x onerror=alert(1)&gt; $x$ [red]" in page
        assert "? undecided" in page  # told by words and a sign, not by colour alone


def test_contents_follow_the_first_screen() -> None:
    first = Columns([Heading("Claims")], [Heading("Best")])
    page = to_html(Document("Title", "", [first, Heading("Method"), Text("words")]))
    assert page.index("Best") < page.index("<nav") < page.index('<h2 id="method"')
    assert page.count('href="#') == 1
