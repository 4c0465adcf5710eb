"""The answer ``torch`` holds for each way in which uv installs a project.

The indexes are stand-ins on this machine that hold empty packages, one beside the other: PyTorch's and the default one.
"""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TEMPLATE, bake

UV = TEMPLATE / ".cache/bootstrap/bin/uv"
PYTORCH = "https://download.pytorch.org/whl"


def add_wheel(index: Path, name: str, version: str, *needs: str) -> None:
    """Put an empty package into an index."""
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    meta = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {need}" for need in needs)]
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", "\n".join(meta) + "\n")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    links = (f'<a href="{path.name.replace("+", "%2B")}">{path.name}</a>' for path in folder.glob("*.whl"))
    (folder / "index.html").write_text("\n".join(links))


@pytest.fixture(scope="module")
def indexes(tmp_path_factory) -> Iterator[str]:
    """Serve the indexes; yields their address, below which each has its name."""
    root = tmp_path_factory.mktemp("indexes")
    for backend in ("cpu", "cu128", "rocm7.2"):
        needs = ["triton-rocm==3.9.0"] if backend == "rocm7.2" else []
        add_wheel(root / backend, "torch", f"2.15.0+{backend}", *needs)
        add_wheel(root / backend, "torchvision", f"0.29.2+{backend}", "torch==2.15.0")
    add_wheel(root / "rocm7.2", "triton-rocm", "3.9.0")
    add_wheel(root / "default", "torch", "2.15.0", "much-of-cuda")
    add_wheel(root / "default", "torchvision", "0.29.2", "torch==2.15.0")
    add_wheel(root / "default", "much-of-cuda", "13.0")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def uv(indexes, tmp_path):
    """Run uv where it knows the stand-ins alone."""
    kept = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    here = {"UV_DEFAULT_INDEX": f"{indexes}/default", "UV_PYTHON": sys.executable, "UV_HTTP_RETRIES": "0"}
    environment = {**kept, **here, "UV_CACHE_DIR": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}

    def run(project: Path, *args: str) -> str:
        done = subprocess.run([UV, *args], cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Failed to parse" not in done.stderr
        return done.stdout

    return run


def bake_bare(folder: Path, torch: str, indexes: str) -> Path:
    """Bake a project and leave it torch and torchvision alone, from the stand-ins."""
    project = bake(folder, torch=torch)
    path = project / "pyproject.toml"
    text = path.read_text().replace(PYTORCH, indexes)
    needs = re.findall(r'^    ("(?:torch|torchvision)>=.*",)$', text, re.MULTILINE)
    text = re.sub(
        r"^dependencies = \[.*?^\]", f"dependencies = [{''.join(needs)}]", text, flags=re.DOTALL | re.MULTILINE
    )
    text = re.sub(r"^\[project.optional-dep.*?(?=^\[tool\.uv\])", "", text, flags=re.DOTALL | re.MULTILINE)
    path.write_text(text.replace("[tool.uv]", "[tool.uv]\npackage = false"))
    return project


@pytest.mark.parametrize(
    ("torch", "build"), [("pypi", ""), ("auto", ""), ("cpu", "+cpu"), ("cu128", "+cu128"), ("rocm", "+rocm7.2")]
)
def test_uv_sync_lock_and_run_take_the_build_that_was_asked_for(torch, build, indexes, uv, tmp_path):
    project = bake_bare(tmp_path, torch, indexes)
    uv(project, "lock")
    assert f"2.15.0{build}" in re.findall(r'name = "torch"\nversion = "(.*)"', (project / "uv.lock").read_text())
    uv(project, "sync")
    installed = {path.name for path in project.glob(".venv/lib/*/site-packages/*.dist-info")}
    assert f"torch-2.15.0{build}.dist-info" in installed
    assert f"torchvision-0.29.2{build}.dist-info" in installed
    assert ("much_of_cuda-13.0.dist-info" in installed) == (build == "")
    code = "import importlib.metadata; print(importlib.metadata.version('torch'))"
    assert uv(project, "run", "python", "-c", code).strip() == f"2.15.0{build}"


@pytest.mark.parametrize("torch", ["cpu", "cu128"])
def test_uv_pip_takes_the_build_that_was_asked_for(torch, indexes, uv, tmp_path):
    project = bake_bare(tmp_path, torch, indexes)
    uv(project, "venv")
    uv(project, "pip", "install", "--python", ".venv/bin/python", "-r", "pyproject.toml", "-c", "constraints.txt")
    assert list(project.glob(f".venv/lib/*/site-packages/torch-2.15.0+{torch}.dist-info"))


def test_the_workflow_takes_the_build_for_cpus_whatever_was_asked_for(project):
    workflow = (project / ".github/workflows/ci.yml").read_text()
    assert "UV_TORCH_BACKEND: cpu" in workflow
    assert 'UV_NO_SOURCES: "1"' in workflow
