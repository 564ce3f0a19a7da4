"""Replace the last layer of a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from maskwise.data.atomic_files import whole_file
from maskwise.errors import ModelError
from maskwise.model.model_file import CROP_OF, KNOWN, OUTPUTS, ModelInfo, graph_inputs
from maskwise.model.session import open_session

HEAD_TOLERANCE = 1e-3
"""Largest difference of a replaced last layer's logits from what NumPy makes of the embeddings, over their size."""


def replace_head(
    source: Path,
    weight: Float[np.ndarray, "classes features"],
    bias: Float[np.ndarray, " classes"],
    info: ModelInfo,
    output: Path,
    *,
    known: tuple[Float[np.ndarray, " features"], float] | None = None,
) -> None:
    """Write a model file that is another's up to its embeddings, with a last layer of its own.

    Args:
        source: the other model file.
        weight: logits = embeddings @ weight.T + bias.
        bias: of each class.
        info: what the new file says of itself.
        output: the file to write, whole or not at all.
        known: weight and bias of the logit that a region is one of the classes at all; `info.min_known` is then set.

    Raises:
        ModelError: the new file's logits are not those of its embeddings; then nothing is written.
        InputError: the file cannot be written there.
    """
    import onnx
    from onnx.utils import Extractor

    logits, embeddings = OUTPUTS
    if known is not None:
        weight, bias = np.concatenate([weight, known[0][None]]), np.append(bias, known[1])
    whole = onnx.load(source)
    declared = next(output for output in whole.graph.output if output.name == embeddings)
    model = Extractor(whole).extract_model([node.name for node in whole.graph.input], [embeddings])
    graph = model.graph
    result = logits if known is None else "fitted.logits_and_known"
    _append_head(graph, weight, bias, len(info.view.crops), result)
    rows = declared.type.tensor_type.shape.dim[0].dim_param or "regions"
    outputs = [(logits, [rows, len(info.categories)])]
    if known is not None:
        _split_known(graph, result, len(info.categories))
        outputs.append((KNOWN, [rows]))
    shapes = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs]
    del graph.output[:]
    graph.output.extend([shapes[0], declared, *shapes[1:]])
    onnx.helper.set_model_props(model, info.to_metadata())
    onnx.checker.check_model(model)
    with whole_file(output) as temporary:
        onnx.save(model, temporary)
        _check_head(temporary, weight, bias)


def _append_head(graph: Any, weight: np.ndarray, bias: np.ndarray, crops: int, result: str) -> None:
    """Add the last layer to a graph; of several crops, each has its columns of the weight and its share of the bias."""
    import onnx
    from onnx.helper import make_node

    embeddings = OUTPUTS[1]
    constants: dict[str, np.ndarray] = {
        "fitted.weight": np.concatenate(np.split(weight, crops, axis=1)).astype(np.float32)
    }
    constants["fitted.bias"] = np.tile(bias / crops, crops).astype(np.float32)
    gemm = make_node("Gemm", [embeddings, "fitted.weight", "fitted.bias"], [result], transB=1)
    nodes = [gemm]
    if crops > 1:
        gemm.output[:] = ["fitted.of_all_crops"]
        constants |= {
            "fitted.shape": np.array([-1, crops, len(bias)]),
            "fitted.kinds": np.arange(crops)[None],
            "fitted.one": np.array([1]),
            "fitted.two": np.array([2]),
        }
        nodes += [
            make_node("Reshape", ["fitted.of_all_crops", "fitted.shape"], ["fitted.by_crop"]),
            make_node("Unsqueeze", [CROP_OF, "fitted.one"], ["fitted.kind"]),
            make_node("Equal", ["fitted.kind", "fitted.kinds"], ["fitted.is_kind"]),
            make_node("Cast", ["fitted.is_kind"], ["fitted.share"], to=onnx.TensorProto.FLOAT),
            make_node("Unsqueeze", ["fitted.share", "fitted.two"], ["fitted.shares"]),
            make_node("Mul", ["fitted.by_crop", "fitted.shares"], ["fitted.own_crop"]),
            make_node("ReduceSum", ["fitted.own_crop", "fitted.one"], [result], keepdims=0),
        ]
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    graph.node.extend(nodes)


def _split_known(graph: Any, result: str, classes: int) -> None:
    """Split the last column off a graph's logits: it says whether a region is one of the classes at all."""
    import onnx
    from onnx.helper import make_node

    constants = {"fitted.parts": np.array([classes, 1]), "fitted.last": np.array([1])}
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    graph.node.extend(
        [
            make_node("Split", [result, "fitted.parts"], [OUTPUTS[0], "fitted.known"], axis=1),
            make_node("Squeeze", ["fitted.known", "fitted.last"], [KNOWN]),
        ]
    )


def _check_head(path: Path, weight: np.ndarray, bias: np.ndarray) -> None:
    """Refuse a model file whose logits are not those that a last layer makes of its embeddings."""
    session, info = open_session(path)
    side, crops = info.view.size, len(info.view.crops)
    images = np.random.default_rng(0).integers(0, 256, (crops, side, side, 3), dtype=np.uint8)
    crop_of = np.arange(crops) if crops > 1 else None
    names = [*OUTPUTS, *([] if info.min_known is None else [KNOWN])]
    got, embeddings, *known = session.run(names, graph_inputs(images, images[..., 0], crop_of=crop_of))
    got = np.concatenate([got, *(one[:, None] for one in known)], axis=1)
    expected = embeddings.ravel() @ weight.T + bias
    difference = float(np.abs(got.sum(axis=0) - expected).max() / np.abs(expected).max())
    if not difference <= HEAD_TOLERANCE:
        raise ModelError(f"the written model's logits differ by {difference:.2g} of their size; nothing was written")
