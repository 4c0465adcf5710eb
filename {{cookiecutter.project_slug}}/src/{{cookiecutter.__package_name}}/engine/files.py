"""Files: written whole or not at all; those that are gone are told from those that cannot be read."""

import os
from pathlib import Path


def is_gone(error: BaseException | None) -> bool:
    """Tell whether an error says that a file is not there, and not that it cannot be read."""
    return isinstance(error, FileNotFoundError | NotADirectoryError)


def write(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8", newline="")
    os.replace(unfinished, path)
