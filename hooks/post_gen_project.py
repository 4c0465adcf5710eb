"""Remove what the answers leave out, name the package in the tests, start a git repository, say what comes next."""

import json
import shutil
import subprocess
from pathlib import Path

ANSWERS = json.loads(r"""{{ cookiecutter | jsonify }}""")
REMOVALS = {
    ".github": ANSWERS["ci"] != "github",
    f"src/{ANSWERS['__package_name']}/tools": ANSWERS["tools"] == "no",
    "docs/tools.md": ANSWERS["tools"] == "no",
}

for path, unwanted in REMOVALS.items():
    if unwanted and Path(path).is_dir():
        shutil.rmtree(path)
    elif unwanted:
        Path(path).unlink()

# The tests hold no Jinja, so that they can be checked before they are baked: they import `project_package`.
for path in Path("tests").glob("*.py"):
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("project_package", ANSWERS["__package_name"]), encoding="utf-8")

if shutil.which("git"):
    subprocess.run(["git", "init", "--quiet"], check=False)
    # The branch that the workflow listens to, also where git's own default is another.
    subprocess.run(["git", "symbolic-ref", "HEAD", "refs/heads/main"], check=False)

slug = ANSWERS["project_slug"]
print(f"""
Your project is in {slug}. Next:

    cd {slug} && make install
    .venv/bin/{slug} fit
    .venv/bin/{slug} test
""")
