"""Mends ``.venv`` in a folder that was renamed, moved or copied; ``make install`` runs this file, before any package.

The commands of an environment name their Python by its full path: of a folder that is gone they do not start, and of
one that was copied they would quietly use the original's packages.
"""

import os
import re
import sys
from pathlib import Path

# How pip and uv begin a command; the second way is for paths with spaces, or longer than a kernel reads.
HEAD = re.compile(rb"""#!(?:/bin/sh\n'''exec' )?["']?(/[^"'\n]*)/bin/(python[\d.]*)[^\n]*\n(?:' '''\n)?""")
ACTIVATED = re.compile(rb"""^VIRTUAL_ENV=["']?(/[^"'\n]*)""", re.MULTILINE)
LONGEST = 120  # bytes of a path that every kernel reads


def mend(environment: Path) -> list[str]:
    """Let the commands of an environment, and what activates it, name the folder in which it lies.

    Returns:
        The names of those that were changed.
    """
    environment = environment.resolve()  # .venv may be a link to an environment that others use, too
    texts = {}
    for path in sorted((environment / "bin").iterdir()):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b"\0"
        if b"\0" not in content[:1024]:
            texts[path] = content
    found = [match for content in texts.values() for match in (HEAD.match(content), ACTIVATED.search(content)) if match]
    earlier = sorted({match[1] for match in found if is_earlier(Path(os.fsdecode(match[1])), environment)})
    changed = []
    for path, content in texts.items():
        mended = mend_text(content, earlier, environment)
        if mended != content:
            path.write_bytes(mended)
            changed.append(path.name)
    return changed


def is_earlier(place: Path, environment: Path) -> bool:
    """Tell whether an environment lay at a place before: it is no Python of the system's, and no other name of now."""
    return place.name == environment.name and not (place.exists() and place.samefile(environment))


def mend_text(content: bytes, earlier: list[bytes], environment: Path) -> bytes:
    """Return the content of a command with the present place instead of earlier ones."""
    head = HEAD.match(content)
    if head and head[1] in earlier:
        content = head_of(environment / "bin" / head[2].decode()) + content[head.end() :]
    for place in earlier:  # not where it is the end of a longer path
        named = re.compile(rb"(?<![^\s'\"=:])" + re.escape(place) + rb"(?=[/'\"\s:]|$)")
        content = named.sub(lambda _: os.fsencode(environment), content)
    return content


def head_of(python: Path) -> bytes:
    """Return the lines with which a command begins that this Python runs."""
    if len(os.fsencode(python)) <= LONGEST and not re.search(r"\s", str(python)):
        return b"#!" + os.fsencode(python) + b"\n"
    return b"#!/bin/sh\n'''exec' \"" + os.fsencode(python) + b'" "$0" "$@"\n\' \'\'\'\n'


if __name__ == "__main__":
    if names := mend(Path(sys.argv[1])):
        print(f"The folder has another name or place than before; mended in {sys.argv[1]}: {', '.join(names)}")
