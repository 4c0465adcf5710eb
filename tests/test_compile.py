"""``--model.compile true`` where nothing can be compiled is refused in one line."""

from pathlib import Path

import pytest
from conftest import TINY, draw_images

# torch reads CXX when it is imported, which the server of the tests did long ago.
SCRIPT = """
import sys
import torch._inductor.config as config
from my_project.__main__ import main
config.cpp.cxx = (None, sys.argv[1])
raise SystemExit(main(sys.argv[2:]))
"""
COMPILERS = {
    "none": None,
    "one that fails": "exit 1",
    "one without its headers": 'case "$*" in *--version*) echo "g++ 13.2.0" ;; *) echo "no header" >&2; exit 1 ;; esac',
}


def compiler(kind: str, folder: Path) -> Path:
    path = folder / "compiler"
    if COMPILERS[kind] is not None:
        path.write_text(f"#!/bin/sh\n{COMPILERS[kind]}\n")
        path.chmod(0o755)
    return path


def refused(command, project: Path, folder: Path, scratch: Path, kind: str, *args: object) -> str:
    script = scratch / "script.py"
    script.write_text(SCRIPT)
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(scratch / "cache")}
    done = command(project, folder, "-m", script, compiler(kind, scratch), *args, environment=cache)
    return done.refusal


@pytest.mark.parametrize("kind", ["one without its headers"])
def test_a_compiler_that_does_not_work_is_said_in_one_line_and_leaves_no_run(kind, project, command, tmp_path):
    draw_images(tmp_path / "images")
    flags = ("--data.root=images", *TINY, "--model.compile=true", "--trainer.num_sanity_val_steps=0")
    said = refused(command, project, tmp_path, tmp_path, kind, "fit", *flags)
    assert "--model.compile=true: torch.compile cannot compile the network here" in said
    assert "give --model.compile false" in said
    assert not list((tmp_path / "runs").rglob("version_*"))


@pytest.mark.parametrize("kind", ["none"])
def test_a_compiled_run_cannot_be_scored_without_a_compiler_and_it_is_said_how(
    kind, project, command, fitted, tmp_path
):
    said = refused(command, project, fitted[0], tmp_path, kind, "validate", "--model.compile=true")
    assert "give --model.compile false" in said
