"""Reports in a browser: they open from a file, filter and sort, and are easy to reach; pictures go to out/page/."""

from functools import partial

import numpy as np
import pytest

from maskwise import Mask
from maskwise.reports.html_report import Card, Drawing, Fact, reliability_svg, thumbnail, write_html_report

FOUR = [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Six regions: cups at 90, 50 and 70 %, dogs at 60, 95 and 40 %; the second and the last are wrong."""
    rng, cards = np.random.default_rng(0), []
    for number, (name, sure, truth) in enumerate(
        [("cup", 0.9, "cup"), ("cup", 0.5, "dog"), ("cup", 0.7, "cup"), ("dog", 0.6, "dog"), ("dog", 0.95, "dog"),
         ("dog", 0.4, "cup")]
    ):  # fmt: skip
        picture = thumbnail(
            rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), Mask.from_box((40, 20, 30, 40), (90, 120))
        )
        kind = "right" if truth == name else "wrong"
        cards.append(Card(picture, name, sure, sure, kind, f"photo-{number}.jpg, {number}", truth))
    path = tmp_path_factory.mktemp("report") / "report.html"
    drawing = Drawing(reliability_svg([0.4, 0.8], [0.5, 0.9], [3, 9]), "Reliability: right names by probability.")
    facts = [Fact("micro accuracy", "66.7 %", "of 6 regions"), Fact("model", "a model of a long name")]
    orders = [("given", "surest mistakes first"), ("doubt", "least sure first"), ("sure", "surest first")]
    write_html_report(path, "Evaluation", facts, cards, note="Six regions.", orders=orders, drawings=[drawing])
    return path


@pytest.fixture
def visit(open_file, report):
    return partial(open_file, report)


def shown(page):
    """The regions that can be seen, in order, by their numbers."""
    return [
        int(text.rpartition(" ")[2]) for text in page.locator("#cards li:visible span:last-of-type").all_inner_texts()
    ]


def test_filters_and_orders(visit):
    page = visit()
    assert shown(page) == [0, 1, 2, 3, 4, 5]
    page.select_option("#order", "doubt")
    assert shown(page) == [5, 1, 3, 2, 0, 4]
    page.select_option("#order", "sure")
    assert shown(page) == [4, 0, 2, 3, 1, 5]
    page.select_option("#class", "cup")  # Predicted or true.
    assert shown(page) == [0, 2, 1, 5]
    page.select_option("#show", "wrong")
    assert shown(page) == [1, 5]
    assert page.inner_text("#count") == "2 of 6"
    page.select_option("#class", "")
    page.select_option("#show", "")
    page.select_option("#order", "given")
    assert shown(page) == [0, 1, 2, 3, 4, 5]
    assert page.problems == []


def test_the_keyboard_is_enough(visit):
    page = visit()
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")  # Show: right, the first kind.
    assert shown(page) == [0, 2, 3, 4]


@pytest.mark.parametrize(("width", "scheme"), FOUR)
def test_it_fits_and_is_easy_to_read(visit, check_look, width, scheme):
    page = visit(width, scheme)
    check_look(page, width, f"report-{width}-{scheme}")
