"""Wherever a string comes into a report, it stays text: planted in each place that the files have one."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest

from monai_kd.report import comparison_table, load_evaluations
from monai_kd.report import page as page_module
from monai_kd.report.study import load_study
from monai_kd.report.summary import summarise

HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(2)'> {{ 7 * 7 }} ]]> --> </style></svg>"
KNOWN = {
    "html",
    "head",
    "meta",
    "link",
    "title",
    "style",
    "body",
    "main",
    "header",
    "section",
    "div",
    "span",
    "p",
    "h1",
}
KNOWN |= {"h2", "h3", "h4", "figure", "figcaption", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "small"}
KNOWN |= {"dl", "dt", "dd", "pre", "code", "svg", "g", "defs", "path", "use", "text", "tspan", "clippath", "rect", "i"}


class Page(HTMLParser):
    """What of a page could do anything, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = set(), {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            self.attributes.setdefault(name, set()).add(value)

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.text.append(data)


def places(value, path=()):
    """Where a JSON value has strings, and where the names of what it holds may be any."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(one, (*path, key))


def planted(text, place):
    """The text of a JSON file with the hostile string in one place."""
    raw = json.loads(text)
    holder = raw
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = HOSTILE
    return json.dumps(raw)


def planted_in_table(text, cell):
    rows = list(csv.reader(io.StringIO(text)))
    rows[cell[0]][cell[1]] += HOSTILE
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def plant(root, check):
    """Put it wherever the files are still taken; gives the places."""
    found = []
    tables = sorted(root.rglob("*.csv"))
    for path in [*sorted(root.rglob("*.json")), *tables]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            wanted = [(place, planted) for place in places(json.loads(text))]
        else:
            head = next(csv.reader(io.StringIO(text)))
            cells = [(0, column) for column in range(len(head))] + [(1, 0), (1, 1)]
            wanted = [(cell, planted_in_table) for cell in cells]
        for place, how in wanted:
            before = path.read_text(encoding="utf-8")
            path.write_text(how(before, place), encoding="utf-8")
            try:
                check()
                found.append((path.name, place))
            except (ValueError, KeyError, OSError):
                path.write_text(before, encoding="utf-8")
    return found


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_every_place_of_every_file(kind, request):
    runs, *_ = request.getfixturevalue(kind)(
        **({"seeds": (0,), "cases": 4} if kind == "segmentation" else {"images": 20})
    )
    runs.edit(lambda study: study.update(git={"commit": "abc", "branch": "main"}))

    def summary(resamples=1):
        return summarise(load_study(runs.root), resamples=resamples)

    clean = Page(page_module.page(summary(10)))
    found = plant(runs.root, lambda: load_study(runs.root))
    assert len(found) > 12
    assert {("study.json", ("bundle",)), ("study.json", ("versions", "monai"))} <= set(found)

    html = page_module.page(summary(10))
    page = Page(html)
    assert HOSTILE in "".join(page.text)
    assert page.tags <= KNOWN | clean.tags
    assert page.attributes.keys() <= clean.attributes.keys()
    assert not {name for name in page.attributes if name.startswith("on")}
    for name in ("src", "href", "xlink:href", "action"):
        assert all((value or "").startswith(("data:", "#")) for value in page.attributes.get(name, ()))
    # Neither a style sheet nor a picture ends early.
    assert html.count("</style>") == 1
    assert html.count("</svg>") == html.count("<svg ")


def test_the_table_of_one_run_each_stays_a_table(tmp_path):
    for name in ("teacher", "baseline", "a|b <script> `c`"):
        raw = {
            "name": name,
            "scores": {"meanDice": 0.5, HOSTILE: 0.1},
            "cases": 3,
            "cost": {"parameters": 1, "gmac": 0.5, "milliseconds": 2.0},
            "input_shape": [1, 1, 8, 8],
        }
        (tmp_path / f"{len(name)}.evaluation.json").write_text(json.dumps(raw), encoding="utf-8")
    text = comparison_table(load_evaluations(tmp_path), "meanDice", [HOSTILE])
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")} == {8}
    assert not re.search(r"(?<!\\)<(script|img)", text)
