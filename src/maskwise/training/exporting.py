"""Export a checkpoint as a model file; refuse if its outputs differ from torch's."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader
from timm.layers.layer_scale import LayerScale
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from maskwise.data.atomic_files import whole_file
from maskwise.errors import ModelError
from maskwise.model.model_file import CROP_OF, INPUTS, KNOWN, OUTPUTS, ModelInfo, graph_inputs
from maskwise.training.batches import Sample
from maskwise.training.checkpoint import Checkpoint, load_checkpoint
from maskwise.training.data import Split, UnaugmentedRegions, read_data
from maskwise.training.holdout import HeldOutOutputs, holdout_temperature, predict_holdout, split_known
from maskwise.training.loop import load_network, probe_size
from maskwise.training.network import RegionClassifier
from maskwise.training.settings import Storage, StoredAs

OPSET = 20
"""ONNX operator set; the first with a single node for GELU."""
TOLERANCE = 1e-3
"""Largest accepted difference of logits, relative to the largest logit: the two runtimes add in different orders."""
FP16_TOLERANCE = 2e-2
"""The same for weights stored as float16 (11 significant bits)."""
MAX_INT8_COST = 0.005
"""Largest loss of held-out accuracy (0 to 1) at which `auto` chooses int8."""
CALIBRATION_REGIONS = 256
"""Training regions on which the ranges of static int8 are measured."""


class _ExportedNetwork(nn.Module):
    """The network with both outputs of a model file."""

    def __init__(self, network: RegionClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, images: Tensor, masks: Tensor, image_of: Tensor, crop_of: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        embeddings = self.network.embed(images, masks, image_of, crop_of)
        known = () if self.network.known_head is None else (self.network.tell_known(embeddings, crop_of),)
        return self.network.classify(embeddings, crop_of), embeddings, *known


@dataclass(frozen=True)
class ExportReport:
    """Facts about an exported model file.

    Attributes:
        storage: how weights are stored.
        largest_difference: of float32 logits between torch and ONNX Runtime, relative to the largest logit.
        accuracies: held-out accuracies (0 to 1) by storage; empty if int8 was not tried.
        megabytes: size of the file.
    """

    storage: StoredAs
    largest_difference: float
    accuracies: dict[str, float]
    megabytes: float


def export_model(checkpoint_path: Path, output: Path, storage: Storage | None = None) -> ExportReport:
    """Write the model file of a checkpoint.

    Args:
        checkpoint_path: a run's checkpoint.
        output: ONNX file to write.
        storage: how to store weights (default: as the run's settings say). auto: int8 if it costs less than half a
            point of held-out accuracy, otherwise fp16.

    Raises:
        ModelError: the file is not a checkpoint; ONNX Runtime's numbers differ from torch's, and nothing is written; or
            int8 is asked for and the run held no regions out.
        SettingsError, AnnotationError: the data that int8 is calibrated on cannot be read.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    network = load_network(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "fp32.onnx"
        _write_graph(network, checkpoint, plain)
        difference = check_against_torch(network, plain, checkpoint, TOLERANCE)
        stored = _store(network, plain, checkpoint, storage or checkpoint.settings.run.export)
        info = ModelInfo(
            name=checkpoint.settings.run.name,
            categories=checkpoint.categories,
            view=checkpoint.settings.view,
            shares=network.shares,
            temperature=stored.temperature,
            min_known=stored.min_known,
            batch_size=1
            if checkpoint.settings.view.kind == "whole" or _has_batch_ranges(network, stored.storage)
            else 8,
            training={
                "step": checkpoint.step,
                "storage": stored.storage,
                "holdout_by_storage": stored.accuracies,
                **checkpoint.record,
            },
        )
        model = onnx.load(stored.path)
        strip_traces(model)
        onnx.helper.set_model_props(model, info.to_metadata())
        with whole_file(output) as temporary:
            onnx.save(model, temporary)
    return ExportReport(stored.storage, difference, stored.accuracies, round(output.stat().st_size / 1e6, 1))


def export_run(final: Path) -> str:
    """Write `model.onnx` beside a run's final checkpoint, stored as its settings say.

    Args:
        final: the checkpoint.

    Returns:
        A line of text: the file, its size, storage and held-out accuracies.

    Raises:
        ModelError: as in `export_model`.
    """
    model = final.with_name("model.onnx")
    report = export_model(final, model)
    return (
        f"{model}: {report.megabytes} MB, {report.storage}; held-out accuracies {report.accuracies or 'not measured'}"
    )


def _write_graph(network: RegionClassifier, checkpoint: Checkpoint, path: Path) -> None:
    view = checkpoint.settings.view
    size = probe_size(checkpoint.settings)
    regions, sides = torch.export.Dim("regions", min=1), dict[int, Any]()
    if view.kind == "whole":
        sides = {1: torch.export.Dim("height", min=32), 2: torch.export.Dim("width", min=32)}
    shapes = [{0: torch.export.Dim("views", min=1), **sides}, {0: regions, **sides}, {0: regions}]
    example = [
        torch.zeros(2, size, size, 3, dtype=torch.uint8),
        torch.full((3, size, size), 255, dtype=torch.uint8),
        torch.tensor([0, 1, 1]),
    ]
    names = list(INPUTS)
    if network.crops > 1:
        shapes, example, names = [*shapes, {0: regions}], [*example, torch.tensor([0, 1, 1])], [*names, CROP_OF]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns about its own deprecations.
        program = torch.onnx.export(
            _ExportedNetwork(fold_layer_scales(network)).eval(),
            tuple(example),
            input_names=names,
            output_names=[*OUTPUTS, *([] if network.known_head is None else [KNOWN])],
            opset_version=OPSET,
            dynamic_shapes=tuple(shapes),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)


def fold_layer_scales(network: RegionClassifier) -> RegionClassifier:
    """Return a copy in which the layer scales of a ViT's blocks are multiplied into the layers before them.

    With this and one node per GELU (opset 20), DINOv2 ViT-S/14 takes 23.1 ms per crop of 154 pixels instead of 24.7
    (int8, one core of an AMD EPYC, 2026-11-25).
    """
    folded = copy.deepcopy(network)
    for block in folded.trunk.modules():
        if isinstance(block, Block):
            layers: dict[str, Any] = {"ls1": block.attn.proj, "ls2": block.mlp.fc2}
            for scale, layer in layers.items():
                if isinstance(getattr(block, scale, None), LayerScale):
                    gamma = getattr(block, scale).gamma.data
                    layer.weight.data *= gamma[:, None]
                    if layer.bias is not None:
                        layer.bias.data *= gamma
                    setattr(block, scale, nn.Identity())
    return folded


def strip_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes about its own source code, which name folders of this machine and take space."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


def check_against_torch(network: RegionClassifier, path: Path, checkpoint: Checkpoint, tolerance: float) -> float:
    """Compare a graph's logits with torch's on random images and masks; refuse a graph that differs.

    Args:
        network: the original.
        path: the ONNX graph.
        checkpoint: has the view, which decides the sizes to try.
        tolerance: largest accepted difference, relative to the largest logit.

    Returns:
        The difference, relative to the largest logit.

    Raises:
        ModelError: the difference is above the tolerance.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    view = checkpoint.settings.view
    sizes = [(view.size, view.size)] if view.kind == "crop" else [(224, 224), (256, 320), (288, 160)]
    worst = 0.0
    for height, width in sizes:
        images = generator.integers(0, 256, (3, height, width, 3), dtype=np.uint8)
        masks = (generator.random((4, height, width)) < 0.3).astype(np.uint8) * 255
        crop_of = np.array([0, 1, 1, 0]) if network.crops > 1 else None
        inputs = graph_inputs(images, masks, np.array([2, 0, 1, 0]), crop_of)
        with torch.no_grad():
            expected = network(*map(torch.from_numpy, inputs.values())).numpy()
        logits = session.run(["logits"], inputs)[0]
        worst = max(worst, float(np.abs(logits - expected).max() / np.abs(expected).max()))
    if not worst <= tolerance:
        raise ModelError(
            f"ONNX Runtime's logits differ from torch's by {worst:.2g} of the largest logit, more than {tolerance:g};"
            " nothing was written"
        )
    return worst


@dataclass(frozen=True)
class _StoredGraph:
    """A graph in its stored form.

    Attributes:
        path: of the ONNX file.
        storage: how weights are stored.
        temperature: calibrated for this storage.
        min_known: chosen for this storage; None if the model cannot say "none of these".
        accuracies: held-out accuracies by storage; empty if int8 was not tried.
    """

    path: Path
    storage: StoredAs
    temperature: float
    min_known: float | None
    accuracies: dict[str, float]


def _store(network: RegionClassifier, plain: Path, checkpoint: Checkpoint, storage: Storage) -> _StoredGraph:
    """Store the float32 graph; with `auto`, choose between int8 and fp16 by held-out accuracy."""
    known = checkpoint.record.get("min_known")
    if storage == "fp32":
        return _StoredGraph(plain, "fp32", checkpoint.temperature, known, {})
    fp16 = plain.with_name("fp16.onnx")
    store_as_fp16(plain, fp16)
    if storage == "fp16" or (storage == "auto" and checkpoint.settings.view.kind == "whole"):
        check_against_torch(network, fp16, checkpoint, FP16_TOLERANCE)
        return _StoredGraph(fp16, "fp16", checkpoint.temperature, known, {})
    split = read_data(checkpoint.settings.data)
    if not split.holdout:
        raise ModelError("int8 needs held-out regions to be calibrated, and this run has none; choose fp16 or fp32")
    int8 = plain.with_name("int8.onnx")
    if _has_batch_ranges(network, "int8"):
        quantise_dynamically(plain, int8)
    else:
        quantise_statically(plain, int8, split, checkpoint)
    outputs, limits = {}, {}
    for path in (fp16, int8):
        with_known = predict_holdout_with_graph(path, split, checkpoint)
        outputs[path], limits[path] = split_known(with_known, len(checkpoint.categories))
    accuracies = {path.stem: round(outputs[path].accuracy, 4) for path in outputs}
    chosen: StoredAs = "fp16"
    if storage == "int8" or accuracies["fp16"] - accuracies["int8"] < MAX_INT8_COST:
        chosen = "int8"
    path = int8 if chosen == "int8" else fp16
    readable = split.with_holdout(outputs[path].numbers.tolist())
    temperature = holdout_temperature(outputs[path], readable, checkpoint.settings.data.class_power)
    return _StoredGraph(path, chosen, temperature, limits[path], accuracies)


def _has_batch_ranges(network: RegionClassifier, storage: StoredAs) -> bool:
    """Return whether ranges of 8-bit numbers are measured over a batch, so that crops should come one at a time."""
    return storage == "int8" and network.features.layout == "tokens"


def store_as_fp16(source: Path, target: Path) -> None:
    """Store float32 weights as float16 and cast them back at load time: half the file, float32 arithmetic.

    Scales of quantised weights stay float32.
    """
    model = onnx.load(source)
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < 1024 or "_scale" in tensor.name:
            continue
        name = tensor.name
        half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), name + "_fp16")
        tensor.CopyFrom(half)
        casts.append(onnx.helper.make_node("Cast", [name + "_fp16"], [name], to=onnx.TensorProto.FLOAT))
    for index, cast in enumerate(casts):
        graph.node.insert(index, cast)
    onnx.save(model, target)


class _CalibrationReader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types.
    """Training regions, one at a time, in the form that ONNX Runtime's calibration reads."""

    def __init__(self, split: Split, checkpoint: Checkpoint) -> None:
        order = np.random.default_rng(0).permutation(len(split.train))[:CALIBRATION_REGIONS]
        regions = split.train.only(order)
        self._feeds = self._read(UnaugmentedRegions(regions, checkpoint.settings.view, split.categories))

    @staticmethod
    def _read(regions: UnaugmentedRegions) -> Iterator[dict[str, np.ndarray]]:
        for number in range(len(regions)):
            sample = regions[number]
            if isinstance(sample, Sample):  # Otherwise its image cannot be read.
                yield graph_inputs(*_crops_of(sample))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _crops_of(sample: Sample) -> tuple[np.ndarray, np.ndarray, None, np.ndarray | None]:
    """Return the inputs of a graph for one sample: one crop of it, or both."""
    if sample.wide is None:
        return sample.pixels[None], sample.coverage[None], None, None
    pixels, coverage = zip((sample.pixels, sample.coverage), sample.wide, strict=True)
    return np.stack(pixels), np.stack(coverage), None, np.arange(2)


def quantise_dynamically(source: Path, target: Path) -> None:
    """Write the graph with 8-bit weights (per channel) in its linear layers; ranges of inputs are measured at run time.

    The features of transformers have a few very large values in some images only, so ranges calibrated beforehand are
    too wide. DINOv2 ViT-S/14, one core of an AMD EPYC with VNNI, 2026-11-24: 137 ms per crop in float32, 64 with this
    (embeddings at a cosine of 0.999 to float32's), 67 with static ranges (0.998), 99 to 116 with weights in blocks of
    128 to 32 (MatMulNBits; 0.9997 to 0.9998).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    ready = _preprocessed(source)
    quantize_dynamic(
        ready,
        target,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=_kept_in_float(ready),
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
    store_as_fp16(target, target)


def _preprocessed(source: Path) -> Path:
    """Write the graph as quantisation needs it, with inferred shapes, beside the source; return its path."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = source.with_name("ready.onnx")
    quant_pre_process(source, ready, skip_symbolic_shape=True)
    return ready


def quantise_statically(source: Path, target: Path, split: Split, checkpoint: Checkpoint) -> None:
    """Write the graph with 8-bit weights (per channel) and activations, calibrated on training regions."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    ready = _preprocessed(source)
    quantize_static(
        ready,
        target,
        _CalibrationReader(split, checkpoint),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool"],
        nodes_to_exclude=_kept_in_float(ready),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"CalibMovingAverage": True},
    )


def _kept_in_float(path: Path) -> list[str]:
    """Return the nodes that stay in float: the attention branch and the head, which are small and matter most."""
    graph = onnx.load(path).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        shapes = [weights[name] for name in node.input if name in weights]
        on_mask = node.op_type == "Conv" and any(len(shape) == 4 and shape[1] == 1 for shape in shapes)
        if on_mask:
            kept.append(node.name)
    return [*kept, *_head_products(graph)]


def _head_products(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the last products before the logits: those of the head."""
    makers = {name: node for node in graph.node for name in node.output}
    wanted = [OUTPUTS[0], KNOWN]
    while wanted:
        node = makers.pop(wanted.pop(), None)
        if node is not None and node.op_type in ("MatMul", "Gemm"):
            yield node.name
        elif node is not None:
            wanted += [name for name in node.input if name != OUTPUTS[1]]


def predict_holdout_with_graph(path: Path, split: Split, checkpoint: Checkpoint) -> HeldOutOutputs:
    """Return the outputs of a graph on the held-out set."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = [node.name for node in session.get_outputs() if node.name in ("logits", KNOWN)]

    class Graph(nn.Module):
        def forward(
            self, images: Tensor, masks: Tensor, _image_of: Tensor | None = None, crop_of: Tensor | None = None
        ) -> Tensor:
            rows = []
            for number, (image, mask) in enumerate(zip(images.numpy(), masks.numpy(), strict=True)):
                kind = None if crop_of is None else crop_of[number : number + 1].numpy()
                logits, *known = session.run(wanted, graph_inputs(image[None], mask[None], crop_of=kind))
                rows.append(np.concatenate([logits, *(one[:, None] for one in known)], axis=1))
            return torch.from_numpy(np.concatenate(rows))

    return predict_holdout(Graph(), split, checkpoint.settings)
