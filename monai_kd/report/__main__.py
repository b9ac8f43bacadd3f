"""``python -m monai_kd.report``: the comparison table of evaluated networks, and pictures of their masks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from monai_kd._files import write_whole
from monai_kd.data.folder import image_datalist
from monai_kd.errors import user_message
from monai_kd.report.evaluation import load_evaluations
from monai_kd.report.overlays import partner, save_overlays
from monai_kd.report.table import comparison_table


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m monai_kd.report",
        description="Compare teacher, baseline and distilled students that evaluate.json has scored.",
    )
    parser.add_argument("directory", help="folder of the *.evaluation.json files; report.md is written there")
    parser.add_argument("--score", default="meanDice", help="score in which the gap is measured (default: %(default)s)")
    parser.add_argument("--also", nargs="*", default=[], metavar="SCORE", help="further scores to show")
    parser.add_argument("--note", default="", help="a sentence below the table, such as who saw which labels")
    parser.add_argument("--frames", help="folder of frames to draw masks on (overlays.png)")
    parser.add_argument("--labels", help="folder of their true masks")
    parser.add_argument(
        "--masks", nargs="*", type=_titled, default=[], metavar="TITLE=FOLDER", help="folders of predicted masks"
    )
    options = parser.parse_args(arguments)
    try:
        table = comparison_table(load_evaluations(options.directory), options.score, options.also)
        text = f"{table}\n" + (f"\n{options.note}\n" if options.note else "")
        write_whole(Path(options.directory) / "report.md", text)
        print(text)
        if options.frames:
            print(f"pictures: {_draw(options)}")
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 1
    return 0


def _draw(options: argparse.Namespace) -> Path:
    frames = [Path(item["image"]) for item in image_datalist(options.frames)]
    labels = [partner(Path(options.labels), frame.stem) for frame in frames] if options.labels else None
    return save_overlays(frames, dict(options.masks), Path(options.directory) / "overlays.png", labels)


def _titled(item: str) -> tuple[str, str]:
    title, equals, folder = item.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected TITLE=FOLDER, got '{item}'")
    return title, folder


if __name__ == "__main__":
    sys.exit(main())
