"""``python -m monai_kd.report``: the comparison table of evaluated networks, and pictures of their masks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from monai_kd.errors import user_message
from monai_kd.report.evaluation import load_evaluations, write_whole
from monai_kd.report.overlays import save_overlays
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
    parser.add_argument("--masks", nargs="*", default=[], metavar="TITLE=FOLDER", help="folders of predicted masks")
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
    frames = sorted(path for path in Path(options.frames).iterdir() if path.is_file())
    labels = None
    if options.labels:
        found = {path.stem: path for path in Path(options.labels).iterdir()}
        labels = [found[frame.stem] for frame in frames]
    masks = dict(item.split("=", 1) for item in options.masks)
    return save_overlays(frames, masks, Path(options.directory) / "overlays.png", labels)


if __name__ == "__main__":
    sys.exit(main())
