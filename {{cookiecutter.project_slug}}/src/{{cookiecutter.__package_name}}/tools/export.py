"""``export``: write a run's network as ONNX, torch.export and safetensors, and check that it is still the same.

Starts from a checkpoint as ``validate`` does and writes runs/NAME/version_N/export/:

model.onnx, model.pt2   give for any N samples what ``predict`` writes: probabilities (N, K), or values (N, T) of
                        numbers in the unit that they were given in
model.int8.onnx         the same in 8-bit integers, quantised after training; what that costs is shown. Of a run with
                        --callbacks.qat those that training rounded to, compared with quantising after training
model.safetensors       the weights alone
preprocessing.py        turns what people have into what the models take
example.py              tells with these two what is predicted
metadata.json           the target, sizes, hashes, versions, and how each file did on the validation split

The first four carry metadata.json's facts, too. Where a probability of model.onnx or model.pt2 differs from the
checkpoint's by more than 1e-4 (a value by 1e-4 of the targets' standard deviation), the command fails: the files go to
export-failed/, and an export/ of earlier stays.
``--calibrate true`` makes the temperature of calibration.json part of the models. ``--opset N`` writes another version
of ONNX's operators than 20. Needs the extra ``export``. Other flags are those of ``validate``.
"""

import argparse
import importlib.metadata
import json
import logging
import re
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..cli import CLI
from ..engine import signals
from ..engine.calibrating import needed, sha256
from ..engine.calibration import OfProbabilities
from ..engine.files import write
from ..engine.loading import Batch
from ..engine.mistakes import Mistake, RunFailed, require
from ..engine.parser import Options, truth
from ..engine.targets import Classes, Target
from . import _exported, _integers
from ._page import aligned, check_packages
from ._words import NOUN

TOLERANCE = 1e-4  # of a probability; classes can then differ only where two are as likely as each other
LAYERS = {"Conv", "Gemm", "MatMul"}  # of ONNX: what a network computes with its weights
OPSET = 20  # of ONNX, unless --opset says otherwise
OLDEST_OPSET = 18  # torch writes none before: it warns, and writes this one
INT8, CALIBRATED = "model.int8.onnx", "calibrated.int8.onnx"  # the latter for comparison alone
CALIBRATION = 256  # training samples that show the quantiser the range of each layer
NO_INT8 = "leave model.int8.onnx out: export --no-int8."
VERSIONS = ("torch", "onnx", "onnxruntime", "numpy", *_exported.PACKAGES)
OPERATOR = re.compile(r"call_function\[target=torch\.ops\.([\w.]+)\]")  # in torch's messages
Figures = dict[str, dict[str, Any]]


class OnCPU(CLI):
    """``validate`` in single precision in this process, however the run was trained: what is exported."""

    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        trainer, model = self.own.trainer, self.own.model
        trainer.accelerator = "cpu"
        trainer.strategy = "auto"
        trainer.devices = 1
        trainer.num_nodes = 1
        trainer.precision = "32-true"
        model.compile = False
        if "channels_last" in model:
            model.channels_last = False

    def before_validate(self) -> None:
        """Let a run that was trained without validation be exported, too."""


def facts(cli: CLI, opset: int, calibration: OfProbabilities | None) -> dict[str, Any]:
    """Describe what is exported, as values of JSON."""
    assert cli.source
    model, data, target = cli.model, cli.datamodule, cli.datamodule.target
    thresholds = target.thresholds(calibration.settled(model.settled) if calibration else model.settled)
    return {
        "target": target.as_dict(),
        **({"class_names": target.names} if isinstance(target, Classes) else {}),
        **({"thresholds": thresholds} if thresholds else {}),
        **_exported.facts(model, data),
        **_scale(model),
        "network": model.hparams.network,
        "checkpoint": cli.source.checkpoint.name,
        "checkpoint_sha256": sha256(cli.source.checkpoint),
        "manifest_sha256": sha256(data.manifest_path),
        **({"temperature": calibration.temperature} if calibration else {}),  # inside the models
        "opset": opset,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }


def _scale(model: Any) -> dict[str, Any]:
    """Return how numbers in their unit follow from the network's outputs, which are standardised."""
    if not hasattr(model, "standardised"):
        return {}
    scale = model.standardised
    mean = (scale.centre_T.double() + scale.centre_rest_T.double()).tolist()
    return {"standardised": {"mean": mean, "deviation": scale.scale_T.tolist(), "log": scale.log}}


@contextmanager
def refused(network: str, cannot: str, remedy: str) -> Iterator[None]:
    """Word what torch and onnxruntime raise, which is almost anything, as a user's mistake.

    Args:
        network: The class of the network.
        cannot: What they do with it.
        remedy: What the user can do.

    Raises:
        Mistake: They raised.
    """
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        why = f"{reason}{place_of(error)}"
        raise Mistake(
            f"--model.network={network} cannot be {cannot} ({why}), so nothing was written; {remedy}"
        ) from error


def place_of(error: BaseException) -> str:
    """Say at which operator or in whose forward torch and onnxruntime raised; nothing where that cannot be told."""
    operator = next(filter(None, (OPERATOR.search(str(one)) for one in (error, error.__cause__))), None)
    if operator:
        return f"; at the operator {operator[1]}"
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    nodes: list[Any] = [node for frame in frames if hasattr(node := frame.f_locals.get("node"), "op_type")]
    if nodes:  # onnxruntime's quantiser goes from one to the next
        return f"; at the operator {nodes[-1].op_type}, {nodes[-1].name!r}"
    forwards = [frame for frame in frames if frame.f_code.co_name == "forward" and "self" in frame.f_locals]
    own = [frame for frame in forwards if isinstance(frame.f_locals["self"], nn.Module)]
    return f"; in {type(own[-1].f_locals['self']).__name__}.forward, line {own[-1].f_lineno}" if own else ""


def write_models(model: Any, calibrates: nn.Module, data: Any, about: dict[str, Any], folder: Path) -> None:
    """Write model.onnx, model.pt2 and model.safetensors.

    Args:
        model: The model.
        calibrates: What its predictions go through.
        data: The data module.
        about: What they say of themselves.
        folder: Where they go.

    Raises:
        Mistake: The network's forward cannot be traced.
    """
    import onnx
    from safetensors.torch import save

    texts = {key: json.dumps(value) for key, value in about.items()}
    inputs = _exported.inputs(data.example(2), data)
    batch = torch.export.Dim("batch", min=1)
    any_number = tuple({0: batch} for _ in inputs)
    remedy = "its forward must not decide by the values of tensors."
    with torch.no_grad(), refused(type(model.network).__name__, "exported", remedy):
        whole = _exported.Predict(model, calibrates).eval()
        program = torch.export.export(whole, (*inputs.values(),), dynamic_shapes=any_number)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # names the folders of this machine
        exported: Any = torch.onnx.export(
            program,
            input_names=list(inputs),
            output_names=[data.target.predicted],
            dynamic_shapes=tuple({0: "batch"} for _ in inputs),
            opset_version=about["opset"],
            verbose=False,
        )
    torch.export.save(program, folder / "model.pt2", extra_files={"metadata.json": json.dumps(about)})
    exported.model.metadata_props.update(texts)
    exported.save(folder / "model.onnx", external_data=False)
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    written = {entry.domain: entry.version for entry in onnx.load(folder / "model.onnx").opset_import}[""]
    load(folder / "model.onnx", about["opset"])
    if written != about["opset"]:
        raise Mistake(_no_opset(about["opset"], f"torch wrote {written} instead"))
    weights = {name: value.contiguous().clone() for name, value in _exported.weights(model).items()}
    write(folder / "model.safetensors", save(weights, metadata=texts))


def load(path: Path, opset: int) -> Any:
    """Return a session of onnxruntime that runs an ONNX.

    Raises:
        Mistake: It was asked for in a version that onnxruntime does not run, maybe only where there are integers.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would slow down who comes next
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it raises classes of its own
        if opset == OPSET:
            raise
        runs = f"the installed onnxruntime {onnxruntime.__version__} does not run {path.name}"
        raise Mistake(_no_opset(opset, runs)) from error


def _no_opset(opset: int, reason: str) -> str:
    return f"--opset={opset} cannot be exported ({reason}), so nothing was written; leave it out for {OPSET}."


def write_trained_integers(model: Any, folder: Path) -> None:
    """Write model.int8.onnx of a run that was trained for it: with the ranges that it found.

    Raises:
        Mistake: A layer that training rounded is not in model.onnx.
    """
    import onnx

    original = onnx.load(folder / "model.onnx")
    with refused(type(model.network).__name__, "quantised", NO_INT8):
        onnx.save(_integers.with_integers(original, model.ranges, "model.network"), folder / INT8)


def quantise(model: Any, data: Any, folder: Path, name: str = INT8) -> None:
    """Write an ONNX of integers: weights per channel, activations in the range that they have on training samples.

    Static quantisation: the dynamic kind, which finds each range anew, makes convolutions slower.

    Raises:
        Mistake: onnxruntime cannot quantise the network.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    picked = np.unique(np.linspace(0, len(data.train_keys) - 1, CALIBRATION).astype(int)).tolist()

    class TrainingSamples(CalibrationDataReader):
        left = iter(tqdm(picked, "int8", leave=False))

        def get_next(self) -> Any:
            index = next(self.left, None)
            return None if index is None else arrays(data.train[index].x[None], data)

    source = folder / "model.onnx"
    prepared = folder / "prepared.onnx"
    target = folder / name
    original = onnx.load(source)
    with refused(type(model.network).__name__, "quantised", NO_INT8):
        # The network is optimised already; what onnxruntime would do to it fits the processor at hand.
        quant_pre_process(source, prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            TrainingSamples(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Seven bits of weights: processors without VNNI add products of 8 bits in 16, which overflows.
            reduce_range=True,
            nodes_to_exclude=after_last_layer(original.graph),  # else there would be 255 predictions
        )
    prepared.unlink()
    quantised = onnx.load(target)
    onnx.helper.set_model_props(quantised, {p.key: p.value for p in original.metadata_props})
    onnx.save(quantised, target)


def after_last_layer(graph: Any) -> list[str]:
    """Return the nodes of a graph of ONNX that come after its last layer: softmax, sigmoid, or what scales numbers."""
    makers = {name: node for node in graph.node for name in node.output}
    found, wanted = [], [graph.output[0].name]
    while wanted:
        node = makers.get(wanted.pop())
        if node is not None and node.op_type not in LAYERS and node.name not in found:
            found.append(node.name)
            wanted += node.input
    return found


def arrays(x: Tensor, data: Any) -> dict[str, np.ndarray]:
    """Return the inputs of a batch as onnxruntime takes them."""
    return {name: value.numpy() for name, value in _exported.inputs(x, data).items()}


def compared_on(data: Any) -> tuple[str, tuple[list[str], np.ndarray]]:
    """Return the split that the files are compared on: validation, or training where the run has no other."""
    split = "val" if data.manifest.splits["val"][0] else "train"
    return split, data.manifest.splits[split]


def runners(
    model: Any, calibrates: nn.Module, data: Any, about: dict[str, Any], folder: Path
) -> dict[str, Callable[[Batch], np.ndarray]]:
    """Return what gives probabilities_NK: the checkpoint, and each file as another program loads it."""

    def session(path: Path) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        loaded = load(path, about["opset"])
        return lambda given: np.asarray(loaded.run(None, given)[0])

    program = torch.export.load(folder / "model.pt2").module()
    sessions = {path.name: session(path) for path in sorted(folder.glob("*.onnx"), reverse=True)}
    keys, _ = compared_on(data)[1]
    read = _exported.from_files(data, about, keys, folder)
    return {
        "checkpoint": lambda batch: calibrates(model.predict(batch.x)).numpy(),
        "model.pt2": lambda batch: program(*_exported.inputs(batch.x, data).values()).numpy(),
        **{name: lambda batch, run=run: run(arrays(batch.x, data)) for name, run in sessions.items()},
        "from files": lambda batch: sessions["model.onnx"](read(batch.position.tolist())),
    }


@torch.no_grad()
def compare(model: Any, calibrates: nn.Module, data: Any, about: dict[str, Any], folder: Path) -> Figures:
    """Score the checkpoint and every file on the validation split, or on the training split where there is none.

    Returns:
        For each file its size in bytes, the largest difference from the checkpoint (of a probability, or of a value in
        standard deviations), the share of samples that get the same class or labels, the target's score, and samples a
        second on this machine's processor. "from files" is model.onnx with preprocessing.py.
    """
    runs = runners(model, calibrates, data, about, folder)
    target, settled = data.target, about.get("thresholds")
    measure = target.measure(settled)
    split, samples = compared_on(data)
    dataset = data.dataset(*samples, data.manifest.weights.get(split))
    found: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    seconds = dict.fromkeys(runs, 0.0)
    targets: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for batch in tqdm(data.loader(dataset), "parity", leave=False):
        for name, run in runs.items():
            if not targets:
                run(batch)  # the first time is spent on getting ready
            start = time.perf_counter()
            found[name].append(run(batch))
            seconds[name] += time.perf_counter() - start
        targets.append(batch.y.numpy())
        weights.append(np.ones(len(batch.y)) if batch.weight is None else batch.weight.numpy())
    true, weight_N = np.concatenate(targets), np.concatenate(weights)
    counts_N = weight_N > 0
    expected = np.concatenate(found["checkpoint"])
    figures = {}
    for name, parts in found.items():
        given = np.concatenate(parts)
        path = folder / name
        same = target.alike(given, expected, settled)
        figures[name] = {
            "bytes": path.stat().st_size if path.is_file() else None,
            "largest_difference": float(target.differences(given, expected, data.train_targets).max()),
            **({} if same is None else {f"same_{target.noun}": same}),
            f"{split}_{target.score}": float(measure(given[counts_N], true[counts_N], weight_N[counts_N])),
            f"{NOUN}_per_second": round(len(true) / seconds[name]),
        }
    return figures


def lost_in_32_bits(data: Any) -> float:
    """Return how far apart neighbours of float32 are among the targets, as ``largest_difference`` counts."""
    values = np.asarray(data.train_targets, dtype=np.float32)
    return float(data.target.differences(values + np.spacing(values), values, data.train_targets).max())


def as_table(figures: Figures, target: Target, split: str) -> str:
    """Return the figures of each file as lines for a terminal."""
    same, score = f"same_{target.noun}", f"{split}_{target.score}"
    decides = bool(target.decision)  # else there is no "same", and the score is no share
    header = ["", "size", "largest difference", same, score, f"{NOUN}/s"]
    lines = []
    for name, row in figures.items():
        size = f"{row['bytes'] / 1e6:.2f} MB" if row["bytes"] else ""
        difference = f"{row['largest_difference']:.2g}"
        results = [f"{row[same]:.2%}", f"{row[score]:.2%}"] if decides else [f"{row[score]:.6g}"]
        lines.append([name, size, difference, *results, row[f"{NOUN}_per_second"]])
    return aligned([name.replace("_", " ") for name in header if decides or name != same], lines)


@contextmanager
def folder_beside(export: Path) -> Iterator[Path]:
    """Yield a folder to fill beside the export; unless it is moved it is gone in the end."""
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=export.parent, ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)
            yield Path(folder)
    except OSError as error:
        raise RunFailed(
            f"{export} could not be written ({error}), so there is no new one, and an earlier one is unharmed; make "
            "room and export again."
        ) from error


def take_the_place(folder: Path, target: Path) -> None:
    """Let a folder take the place of another."""
    signals.check()  # torch.export may swallow what a signal raises
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        target.rename(folder / "earlier")
    folder.rename(target)
    shutil.rmtree(target / "earlier", ignore_errors=True)


def _check_opset(opset: int) -> None:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    within = f"{OLDEST_OPSET} ≤ x ≤ {newest}, or leave it out for {OPSET}"
    require(OLDEST_OPSET <= opset <= newest, "--opset", opset, within, "torch would write another one")


def main(args: list[str]) -> None:
    """Run the command."""
    parser = Options(__name__, f"{__doc__}\n{_exported.__doc__}")
    about_int8 = "Whether to write model.int8.onnx."
    parser.add_argument("--int8", action=argparse.BooleanOptionalAction, default=_exported.INT8, help=about_int8)
    about_opset = f"The version of ONNX's operators, for a runtime that wants another (default: {OPSET})."
    parser.add_argument("--opset", type=int, default=OPSET, metavar="N", help=about_opset)
    about_calibrate = "Whether the models give calibrated probabilities (default: false)."
    parser.add_argument("--calibrate", type=truth, default=False, metavar="true", help=about_calibrate)
    options, flags = parser.parse_known_args(args)
    check_packages("export", "export", "onnx", "onnxruntime", "onnxscript")
    _check_opset(options.opset)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    cli = OnCPU(["validate", *flags])
    assert cli.run
    model, data = cli.model.eval(), cli.datamodule
    calibration, calibrates = None, nn.Identity()
    if options.calibrate:
        assert cli.source
        calibration = needed(cli.run, cli.source.checkpoint, "--calibrate=true").of
        assert isinstance(calibration, OfProbabilities)
        calibrates = calibration.module(model.settled)
        if model.ranges:
            print(
                "calibration: of the rounded network, as model.int8.onnx is; model.onnx and model.pt2 are not rounded"
            )
    about = facts(cli, options.opset, calibration)
    export = cli.run.export
    failed = export.with_name("export-failed")
    with folder_beside(export) as folder:
        steps = {
            "trace": lambda: write_models(model, calibrates, data, about, folder),
            "example": lambda: _exported.write_example(about, folder),
        }
        if options.int8:
            trained = model.ranges is not None
            steps["quantise"] = lambda: quantise(model, data, folder, CALIBRATED if trained else INT8)
            if trained:
                steps["integers"] = lambda: write_trained_integers(model, folder)
        for name, step in (bar := tqdm(steps.items(), leave=False)):
            bar.set_description(name)
            step()
        figures = compare(model, calibrates, data, about, folder)
        (folder / CALIBRATED).unlink(missing_ok=True)
        worst = float(np.max([figures[name]["largest_difference"] for name in ("model.onnx", "model.pt2")]))
        same = worst <= TOLERANCE  # not so where it is no number
        write(folder / "metadata.json", json.dumps({**about, "parity": same, "figures": figures}, indent=1) + "\n")
        take_the_place(folder, export if same else failed)
    print(as_table(figures, data.target, compared_on(data)[0]))
    if not same:
        remedy = "look for what the network draws at random when it is evaluated"
        if lost_in_32_bits(data) > TOLERANCE / 4:
            remedy = (
                "it gives float32, of 7 digits, so take away of all targets what they have in common, and train again"
            )
        raise RunFailed(
            f"the largest difference {data.target.difference} from the checkpoint's is {worst:.2g}, more than "
            f"{TOLERANCE}, so the export is no good; it lies in {failed}, the figures in its metadata.json; {remedy}."
        )
    shutil.rmtree(failed, ignore_errors=True)
    print(f"export: {export}")
    print(f"try:    python {export / 'example.py'} {_exported.ARGUMENT}")
