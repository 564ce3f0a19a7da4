"""Export a checkpoint as a model file, only if its outputs agree with torch."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from timm.models.vision_transformer import Block, LayerScale
from torch import Tensor, nn

from maskwise.data.atomic_files import whole_file
from maskwise.errors import ModelError
from maskwise.model.model_file import INPUTS, OUTPUTS, ModelInfo, graph_inputs
from maskwise.training.batches import Sample
from maskwise.training.checkpoint import Checkpoint, load_checkpoint
from maskwise.training.data import PlainRegions, Split, read_data
from maskwise.training.holdout import Answers, holdout_answers, temperature_of
from maskwise.training.loop import network_of, probe_size
from maskwise.training.network import RegionClassifier

Storage = Literal["int8", "fp16", "fp32", "auto"]
OPSET = 20
TOLERANCE = 1e-3
"""Largest difference of float32 logits, over their largest size: the two runtimes add in another order."""
FP16_TOLERANCE = 2e-2
"""The same where weights are stored in halves (11 bits each)."""
INT8_COST = 0.005
"""Accuracy that int8 may lose on the held-out regions to be chosen (half a point)."""
CALIBRATION_REGIONS = 256


class _GraphForm(nn.Module):
    """The network with both outputs of a model file."""

    def __init__(self, network: RegionClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, masks: Tensor, image_of: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self.network.embed(images, masks, image_of)
        return self.network.head(embeddings), embeddings


@dataclass(frozen=True)
class ExportReport:
    """How an export went.

    Attributes:
        storage: how weights are stored: int8, fp16 or fp32.
        largest_difference: of float32 logits between torch and ONNX Runtime, over their largest size.
        accuracies: on the held-out regions, by storage, where int8 was tried.
        megabytes: size of the file.
    """

    storage: str
    largest_difference: float
    accuracies: dict[str, float]
    megabytes: float


def export_model(checkpoint_path: Path, output: Path, storage: Storage | None = None) -> ExportReport:
    """Write the model file of a checkpoint.

    Args:
        checkpoint_path: a run's checkpoint.
        output: the ONNX file to write.
        storage: of the weights; auto: int8 if it costs under half a point on the held-out regions, else fp16. As the
            run's settings say where left out.

    Raises:
        ModelError: not a checkpoint; or ONNX Runtime's numbers differ from torch's, in which case nothing is written;
            or the data that int8 is calibrated on are not to be had.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    network = network_of(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "fp32.onnx"
        _write_graph(network, checkpoint, plain)
        difference = compare(network, plain, checkpoint, TOLERANCE)
        chosen, storage, temperature, accuracies = _store(
            network, plain, checkpoint, storage or checkpoint.settings.run.export
        )
        info = ModelInfo(
            name=checkpoint.settings.run.name,
            categories=checkpoint.categories,
            view=checkpoint.settings.view,
            shares=network.shares,
            temperature=temperature,
            batch_size=1 if checkpoint.settings.view.kind == "whole" or _by_batch(network, storage) else 8,
            training={
                "step": checkpoint.step,
                "storage": storage,
                "holdout_by_storage": accuracies,
                **checkpoint.record,
            },
        )
        model = onnx.load(chosen)
        _strip_traces(model)
        onnx.helper.set_model_props(model, info.to_metadata())
        with whole_file(output) as temporary:
            onnx.save(model, temporary)
    return ExportReport(storage, difference, accuracies, round(output.stat().st_size / 1e6, 1))


def export_run(final: Path) -> str:
    """Write the model file of a run that has ended, `model.onnx` beside its final checkpoint, as its settings say.

    Args:
        final: the checkpoint.

    Returns:
        A line that says how it went.

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
    regions, sides = torch.export.Dim("regions", min=1), {}
    if view.kind == "whole":
        sides = {1: torch.export.Dim("height", min=32), 2: torch.export.Dim("width", min=32)}
    shapes = ({0: torch.export.Dim("views", min=1), **sides}, {0: regions, **sides}, {0: regions})
    example = (
        torch.zeros(2, size, size, 3, dtype=torch.uint8),
        torch.full((3, size, size), 255, dtype=torch.uint8),
        torch.tensor([0, 1, 1]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns of its own deprecations.
        program = torch.onnx.export(
            _GraphForm(_folded(network)).eval(),
            example,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
    program.save(str(path), external_data=False)


def _folded(network: RegionClassifier) -> RegionClassifier:
    """A copy in which the layer scales of a ViT's blocks are multiplied into the layers before them.

    With one node for each GELU (opset 20) DINOv2 ViT-S/14 takes 23.1 ms a view of 154 pixels in place of 24.7 (int8,
    one core of an AMD EPYC, 2026-11-25).
    """
    folded = copy.deepcopy(network)
    for block in folded.trunk.modules():
        if isinstance(block, Block):
            for scale, layer in (("ls1", block.attn.proj), ("ls2", block.mlp.fc2)):
                if isinstance(getattr(block, scale, None), LayerScale):
                    gamma = getattr(block, scale).gamma.data
                    layer.weight.data *= gamma[:, None]
                    if layer.bias is not None:
                        layer.bias.data *= gamma
                    setattr(block, scale, nn.Identity())
    return folded


def _strip_traces(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes of its own source code: it names folders of the machine, and takes room."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


def compare(network: RegionClassifier, path: Path, checkpoint: Checkpoint, tolerance: float) -> float:
    """Refuse a graph whose logits differ from torch's on random images and masks.

    Args:
        network: the original.
        path: the ONNX graph.
        checkpoint: says which sizes to try.
        tolerance: largest difference over the largest logit.

    Returns:
        The difference over the largest logit.

    Raises:
        ModelError: it is above the tolerance.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    view = checkpoint.settings.view
    sizes = [(view.size, view.size)] if view.kind == "crop" else [(224, 224), (256, 320), (288, 160)]
    worst = 0.0
    for height, width in sizes:
        images = generator.integers(0, 256, (3, height, width, 3), dtype=np.uint8)
        masks = (generator.random((4, height, width)) < 0.3).astype(np.uint8) * 255
        given = graph_inputs(images, masks, np.array([2, 0, 1, 0]))
        with torch.no_grad():
            expected = network(*map(torch.from_numpy, given.values())).numpy()
        got = session.run(["logits"], given)[0]
        worst = max(worst, float(np.abs(got - expected).max() / np.abs(expected).max()))
    if not worst <= tolerance:
        raise ModelError(
            f"ONNX Runtime's logits differ from torch's by {worst:.2g} of their size, more than {tolerance:g};"
            " nothing was written"
        )
    return worst


def _store(
    network: RegionClassifier, plain: Path, checkpoint: Checkpoint, storage: Storage
) -> tuple[Path, str, float, dict[str, float]]:
    """The graph in its stored form: path, storage, temperature, accuracies on the held-out regions."""
    if storage == "fp32":
        return plain, storage, checkpoint.temperature, {}
    halves = plain.with_name("fp16.onnx")
    store_in_halves(plain, halves)
    if storage == "fp16" or (storage == "auto" and checkpoint.settings.view.kind == "whole"):
        compare(network, halves, checkpoint, FP16_TOLERANCE)
        return halves, "fp16", checkpoint.temperature, {}
    split = read_data(checkpoint.settings.data)
    if not split.holdout:
        raise ModelError("int8 is calibrated and judged on regions, and this run held none out; choose fp16 or fp32")
    small = plain.with_name("int8.onnx")
    if _by_batch(network, "int8"):
        quantise_dynamically(plain, small)
    else:
        quantise(plain, small, split, checkpoint)
    answers = {name: graph_answers(path, split, checkpoint) for name, path in (("fp16", halves), ("int8", small))}
    accuracies = {name: round(found.accuracy, 4) for name, found in answers.items()}
    chosen = "int8" if storage == "int8" or accuracies["fp16"] - accuracies["int8"] < INT8_COST else "fp16"
    found = answers[chosen]
    judged = split.holding(found.numbers.tolist())
    temperature = temperature_of(found.logits, found.targets, judged, checkpoint.settings.data.class_power)
    return {"fp16": halves, "int8": small}[chosen], chosen, temperature, accuracies


def _by_batch(network: RegionClassifier, storage: str) -> bool:
    """Whether ranges of 8-bit numbers are measured over a batch, so that views had better come one by one."""
    return storage == "int8" and network.features.layout == "tokens"


def store_in_halves(source: Path, target: Path) -> None:
    """Store float32 weights as float16, cast back when loaded: half the file, float32 arithmetic.

    Scales of quantised weights stay as they are.
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


class _Views:
    """Views of training regions, one at a time, as ONNX Runtime's calibration reads them."""

    def __init__(self, split: Split, checkpoint: Checkpoint) -> None:
        order = np.random.default_rng(0).permutation(len(split.train))[:CALIBRATION_REGIONS]
        regions = split.train.only(order)
        self._feeds = self._read(PlainRegions(regions, checkpoint.settings.view, split.categories))

    @staticmethod
    def _read(regions: PlainRegions) -> Iterator[dict[str, np.ndarray]]:
        for number in range(len(regions)):
            sample = regions[number]
            if isinstance(sample, Sample):  # Else its image cannot be read.
                yield graph_inputs(sample.pixels[None], sample.coverage[None])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def quantise_dynamically(source: Path, target: Path) -> None:
    """Write the graph with 8-bit weights (per channel) of its linear layers, whose inputs are measured as they come.

    The features of transformers have a few very large values in some images and not in others: ranges that are
    calibrated beforehand are too wide. DINOv2 ViT-S/14, one core of an AMD EPYC with VNNI, 2026-11-24: 137 ms a view in
    float32, 64 so (embeddings at a cosine of 0.999 to float32's), 67 under static ranges (0.998), 99 to 116 with
    weights in blocks of 128 to 32 (MatMulNBits; 0.9997 to 0.9998).
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
    store_in_halves(target, target)


def _preprocessed(source: Path) -> Path:
    """The graph as quantisation wants it, shapes inferred, beside the source."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = source.with_name("ready.onnx")
    quant_pre_process(source, ready, skip_symbolic_shape=True)
    return ready


def quantise(source: Path, target: Path, split: Split, checkpoint: Checkpoint) -> None:
    """Write the graph with 8-bit weights (per channel) and activations, calibrated on training regions."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    ready = _preprocessed(source)
    quantize_static(
        ready,
        target,
        _Views(split, checkpoint),
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
    """Nodes that stay in float: the branch on the mask and the head, which are small and matter most."""
    graph = onnx.load(path).graph
    logits = OUTPUTS[0]
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        shapes = [weights[name] for name in node.input if name in weights]
        on_mask = node.op_type == "Conv" and any(len(shape) == 4 and shape[1] == 1 for shape in shapes)
        if on_mask or logits in node.output:
            kept.append(node.name)
    return kept


def graph_answers(path: Path, split: Split, checkpoint: Checkpoint) -> Answers:
    """Answers of a graph on the held-out regions."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    class Graph(nn.Module):
        def forward(self, images: Tensor, masks: Tensor) -> Tensor:
            one_by_one = zip(images.numpy(), masks.numpy(), strict=True)
            rows = [session.run(["logits"], graph_inputs(image[None], mask[None]))[0] for image, mask in one_by_one]
            return torch.from_numpy(np.concatenate(rows))

    return holdout_answers(Graph(), split, checkpoint.settings)
