"""Refuse answers that would give a broken project, with the remedy. Runs in the new, still empty folder."""

import json
import keyword
import re
import sys
import unicodedata

ANSWERS = json.loads(r"""{{ cookiecutter | jsonify }}""")
FREE_TEXT = ("project_name", "description", "author")
# The import names and the distributions that a generated project depends on.
DEPENDENCIES = """
    albucore albumentations basedpyright cv2 filelock fsspec imbalanced_learn imblearn jinja2 jsonargparse lightning
    lightning_fabric lightning_utilities matplotlib networkx numpy packaging pip psutil setuptools sympy
    opencv_python_headless optuna pil pillow pydantic pytest pytorch_lightning pyyaml ruff scikit_learn scipy sklearn
    tensorboard torch torchmetrics torchvision tqdm typing_extensions wandb yaml
""".split()
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
OWN_FOLDERS = {"src", "test", "tests", "runs", "data", "site_packages"}


def problem(answers):
    """Return what is wrong with the answers in one line, or None."""
    for key in FREE_TEXT:
        text = answers[key]
        bad = [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
        if bad:
            return f"{key}={text!r} holds the control character {bad[0]!r}, which no config file can carry; remove it."
        if not text.strip():
            return f"{key} is empty, so the project would say nothing there; give a word or two."
    # cookiecutter.json gives the folder another name where a slash or dots would lead outside of it.
    slug = answers["__typed_slug"]
    name = answers["__package_name"]
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", slug) or len(slug) > 64:
        return (
            f"project_slug={slug!r} is no distribution name, so the project could not be installed; "
            "use up to 64 letters, digits, hyphens, dots and underscores, with a letter or digit at both ends."
        )
    if not name.isidentifier():
        return f"project_slug={slug!r} gives the package {name!r}, which Python cannot import; begin with a letter."
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in ("none", "true", "false"):
        return f"project_slug={slug!r} is a keyword of Python, so it cannot be imported; choose another."
    if name in {module.lower() for module in sys.stdlib_module_names}:
        return f"project_slug={slug!r} would hide Python's module {name!r}; choose another."
    if name in DEPENDENCIES:
        return f"project_slug={slug!r} would hide the package {name!r} that the project needs; choose another."
    if slug.lower().split(".")[0] in RESERVED or name in RESERVED:
        return f"project_slug={slug!r} is a reserved name on Windows, so nobody there could clone it; choose another."
    if name in OWN_FOLDERS:
        return f"project_slug={slug!r} is the name of a folder in the project; choose another."
    return None


if found := problem(ANSWERS):
    sys.exit(f"error: {found}")
