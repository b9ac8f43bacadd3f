"""Folders of comparisons whose stored results are broken, and such that are only odd."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .inputs import Input, cut

REPORT, EVALUATIONS = "monai-kd report", "load_evaluations"
DEEP = 100_000
LEVELS = {"teacher": 0.9, "baseline": 0.6, "distilled": 0.8}
CASES = 6

Change = Callable[[Path], object]


def comparison(root: Path) -> Path:
    """A finished comparison of a segmentation, one seed."""
    roles = {"teacher": "teacher", "baseline": "baseline", "distilled": "student"}
    networks = {name: {"role": role, "seeds": [0]} for name, role in roles.items()}
    cost = {"parameters": 10, "gmac": 0.1, "milliseconds": 1.0}
    side = {**cost, "low": 0.9, "high": 1.1, "peak_bytes": 100}
    costs = {"device": "CPU", "processor": "test", "threads": 1, "rounds": 5, "networks": dict.fromkeys(LEVELS, side)}
    root.mkdir(parents=True)
    study = {"bundle": "task", "score": "meanDice", "seeds": [0], "networks": networks}
    (root / "study.json").write_text(json.dumps(study), encoding="utf-8")
    (root / "cost.json").write_text(json.dumps(costs), encoding="utf-8")
    for name, level in LEVELS.items():
        folder = root / name / "seed_0"
        folder.mkdir(parents=True)
        values = [level + 0.01 * case for case in range(CASES)]
        rows = ["case,Dice_organ", *(f"case_{case},{value:.4f}" for case, value in enumerate(values))]
        (folder / f"{name}.cases.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        history = ["epoch,loss,meanDice", "1,0.9,", "2,0.5,0.4"]
        (folder / f"{name}.history.csv").write_text("\n".join(history) + "\n", encoding="utf-8")
        scores = {"meanDice": sum(values) / CASES, "Dice_organ": sum(values) / CASES}
        evaluation = {"name": name, "scores": scores, "cases": CASES, "cost": cost, "input_shape": [1, 1, 8, 8]}
        (folder / f"{name}.evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
        done = {"network": name, "seed": 0, "seconds": 1.0, "checkpoint": f"{name}/seed_0/models/model.pt"}
        (folder / "run.json").write_text(json.dumps(done), encoding="utf-8")
    return root


def _runs(change: Change) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        root = comparison(folder / "some_runs")
        change(root)
        return root

    return write


STUDENT = "distilled/seed_0"
EVALUATION = f"{STUDENT}/distilled.evaluation.json"
TABLE = f"{STUDENT}/distilled.cases.csv"
HISTORY = f"{STUDENT}/distilled.history.csv"


def inputs() -> Iterator[Input]:
    """All of them."""
    yield Input("comparison", "nothing odd about it", _runs(lambda root: None), handled=(REPORT, EVALUATIONS))
    yield Input("comparison", "no folder", lambda folder: folder / "some_runs")
    yield Input("comparison", "an empty folder", _runs(_empty))
    yield from _documents()
    yield from _values()
    yield from _tables()


def _empty(root: Path) -> None:
    import shutil

    shutil.rmtree(root)
    root.mkdir()


def _documents() -> Iterator[Input]:
    for name in ("study.json", "cost.json", f"{STUDENT}/run.json", EVALUATION):
        short = Path(name).name
        whole = json.dumps({"name": "distilled", "score": 1}).encode()
        broken: dict[str, bytes] = dict(cut(whole, (0, 1, 15, -1)))
        broken |= {
            "a list": b"[]", "a number": b"5", "null": b"null", "a word": b'"x"', "an empty object": b"{}",
            "a text": b"finished", "zeros": bytes(200), "UTF-16": whole.decode().encode("utf-16"),
            "brackets in brackets": b"[" * DEEP + b"]" * DEEP,
        }  # fmt: skip
        harmless = {"run.json": ("an empty object", "cut after 0 of 0 bytes")}
        for what, content in broken.items():
            if what not in harmless.get(short, ()):
                yield Input("comparison", f"{short}: {what}", _runs(_raw(name, content)), only=_doors(name))
        for what, make in {
            "a folder in its place": lambda path: path.mkdir(),
            "a link to itself": lambda path: path.symlink_to(path.name),
            "a pipe that nobody writes to": os.mkfifo,
            "an endless device": lambda path: path.symlink_to("/dev/zero"),
        }.items():
            yield Input("comparison", f"{short}: {what}", _runs(_replaced(name, make)), only=_doors(name))


def _doors(name: str) -> tuple[str, ...]:
    return (REPORT, EVALUATIONS) if name == EVALUATION else (REPORT,)


def _raw(name: str, content: bytes) -> Change:
    return lambda root: (root / name).write_bytes(content)


def _replaced(name: str, make: Callable[[Path], object]) -> Change:
    def change(root: Path) -> None:
        (root / name).unlink()
        make(root / name)

    return change


def _at(name: str, where: str, value: Any) -> Change:
    def change(root: Path) -> None:
        content = json.loads((root / name).read_text(encoding="utf-8"))
        *before, last = where.split("#")
        part = content
        for step in before:
            part = part[step]
        if value is ...:
            del part[last]
        else:
            part[last] = value
        (root / name).write_text(json.dumps(content), encoding="utf-8")

    return change


def _values() -> Iterator[Input]:
    nan, inf = float("nan"), float("inf")
    wrong: Mapping[tuple[str, str], tuple[Any, ...]] = {
        ("study.json", "score"): (..., None, 5, "no_such_score", "val_loss", ["meanDice"]),
        ("study.json", "seeds"): (...,),
        ("study.json", "networks"): (..., None, 5, [], {}, {"baseline": {"role": "baseline"}}),
        ("study.json", "networks#distilled"): (None, 5, [], {}, "student"),
        ("study.json", "networks#distilled#role"): (..., None, 5, "pupil", "baseline", ["student"]),
        ("study.json", "networks#distilled#seeds"): (None, 5, "0", ["a"], [None], [0.5], {}),
        ("study.json", "networks#../other"): ({"role": "student"},),
        ("cost.json", "networks"): (..., None, 5, [], {"distilled": None}, {"distilled": {}}, {"distilled": {"a": 1}}),
        ("cost.json", "device"): (...,),
        ("cost.json", "rounds"): (...,),
        ("cost.json", "networks#distilled#milliseconds"): (..., None, "fast", nan, inf, -1),
        ("cost.json", "networks#distilled#parameters"): (..., None, "many", nan, -5, 2.5),
        (EVALUATION, "name"): (..., None, 5, "", "../x"),
        (EVALUATION, "scores"): (..., None, 5, [], {}),
        (EVALUATION, "scores#meanDice"): (..., None, "good", nan, inf, [0.5], True),
        (EVALUATION, "cases"): (..., None, "six", -1, 2.5),
        (EVALUATION, "cost"): (..., None, 5, [], {}, {"colour": 1}),
        (EVALUATION, "cost#parameters"): (..., None, "many", nan, -5),
        (EVALUATION, "input_shape"): (..., None, 5, "big", ["a"], [1, -1], [nan]),
        (EVALUATION, "unknown"): (1,),
    }  # fmt: skip
    # What the reader of evaluations alone cannot know to be wrong.
    of_report = {("scores#meanDice", None), ("scores#meanDice", ...), ("name", "")}
    for (name, where), values in wrong.items():
        for value in values:
            shown = "nothing" if value is ... else json.dumps(value)
            doors = _doors(name) if name != EVALUATION or _key(where, value) not in of_report else (REPORT,)
            key = f"{Path(name).name}: {shown} as {where}"
            yield Input("comparison", key, _runs(_at(name, where, value)), only=doors)


def _key(where: str, value: Any) -> tuple[str, Any]:
    return where, value if value is ... or value is None or isinstance(value, str) else "other"


def _tables() -> Iterator[Input]:
    case = "case,Dice_organ\n"
    rows = "".join(f"case_{number},0.5\n" for number in range(CASES))
    for what, content in {
        "nothing in it": "",
        "a head alone": case,
        "a case twice": case + rows + "case_0,0.5\n",
        "other cases": case + rows.replace("case_", "scan_"),
        "a word for a number": case + rows.replace("0.5", "good", 1),
        "a cell less": case + rows.replace(",0.5", "", 1),
        "a cell more": case + rows.replace("0.5", "0.5,0.5", 1),
        "infinity": case + rows.replace("0.5", "inf", 1),
        "other regions": rows.join(["case,Dice_other\n", ""]),
        "a quote that does not end": case + '"' + rows,
        "a cell of 200,000 signs": case + rows + f"case_9,{'5' * 200_000}\n",
        "a name of 200,000 signs": case + rows + f"{'x' * 200_000},0.5\n",
        "a NUL byte": case + rows.replace("case_0", "case\0", 1),
        "zeros": "\0" * 500,
        "two columns of one name": rows.replace(",", ",0.5,").join(["case,Dice_organ,Dice_organ\n", ""]),
        "JSON in its place": "[]",
    }.items():
        yield Input("comparison", f"cases.csv: {what}", _runs(_raw(TABLE, content.encode())), only=(REPORT,))
    history = "epoch,loss,meanDice\n"
    for what, content in {
        "a word for a number": history + "1,low,\n",
        "a cell more": history + "1,0.5,0.4,0.3\n",
        "a cell of 200,000 signs": history + f"1,{'5' * 200_000},\n",
        "a NUL byte": history + "1,0\0,\n",
        "JSON in its place": "[1, 2]\n3\n",
    }.items():
        yield Input("comparison", f"history.csv: {what}", _runs(_raw(HISTORY, content.encode())), only=(REPORT,))
    latin = "case,Dice_organ\nf\u00e4ll,0.5\n".encode("latin-1")
    for name in (TABLE, HISTORY):
        short = Path(name).name.partition(".")[2]
        yield Input("comparison", f"{short}: Latin-1", _runs(_raw(name, latin)), only=(REPORT,))
        for what, make in {
            "a folder in its place": lambda path: path.mkdir(),
            "a pipe that nobody writes to": os.mkfifo,
            "an endless device": lambda path: path.symlink_to("/dev/zero"),
        }.items():
            yield Input("comparison", f"{short}: {what}", _runs(_replaced(name, make)), only=(REPORT,))
    for what, change in {
        "history.csv: nothing in it": _raw(HISTORY, b""),
        "history.csv: a head alone": _raw(HISTORY, history.encode()),
        "history.csv: NaN and infinity": _raw(HISTORY, (history + "1,nan,inf\n").encode()),
        "no history.csv": lambda root: (root / HISTORY).unlink(),
        "no cases.csv": lambda root: (root / TABLE).unlink(),
        "no cost.json": lambda root: (root / "cost.json").unlink(),
        "no teacher": lambda root: _at("study.json", "networks#teacher", ...)(root),
        "names that are HTML": _raw(TABLE, (case + rows + '"<script>alert(1)</script>",0.5\n').encode()),
    }.items():
        yield Input("comparison", what, _runs(change), handled=(REPORT,), only=(REPORT,))
    for what, change in {
        "no run.json of the student": lambda root: (root / STUDENT / "run.json").unlink(),
        "no evaluation of a finished run": lambda root: (root / EVALUATION).unlink(),
    }.items():
        yield Input("comparison", what, _runs(change), only=(REPORT,))
