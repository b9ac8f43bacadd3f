"""What an extra of the package brings, asked for before a long run and not behind it."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["need_extra"]


def need_extra(extra: str, *packages: str) -> None:
    """See that the packages of an extra are there.

    Raises:
        ImportError: one is not; how to install it is in the message.

    Example:
        >>> need_extra("report", "jinja2", "no_such_package")
        Traceback (most recent call last):
        ImportError: no_such_package is not installed: pip install "monai-kd[report]"
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ImportError(f'{" and ".join(missing)} {verb} not installed: pip install "monai-kd[{extra}]"')
