"""A model file whose answers are known by hand, made without torch.

The embedding of a region is the mean red, green and blue of its crop under the mask, 0 to 1. The logits are the
embedding times a matrix: by default each class stands for one colour.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from maskwise.data.regions import Category
from maskwise.model.model_file import CROP_OF, INPUTS, KNOWN, OUTPUTS, ModelInfo
from maskwise.views.view import ViewSettings

CATEGORIES = (Category(1, "person"), Category(18, "dog"), Category(47, "cup"))
"""In the default model the name of what is red, green and blue."""
STRENGTH = 40.0
TEMPERATURE = 2.0


def colour_model(
    folder: Path, *, seed: int = 0, weight=None, categories=CATEGORIES, wide_weight=None, known=None, **info
) -> Path:
    """Write a model file.

    Args:
        folder: where.
        seed: above 0: the classes stand for other colours.
        weight: classes x 3; logits = weight @ (red, green, blue).
        categories: a class per row of the weight.
        wide_weight: the weight of a second, wider crop. The embedding of each crop is then the mean colour of the whole
            crop, not only under the mask, so that the two differ; `info` must have a view with two crops.
        known: makes a model that can say "none of these": the logit of being one of the classes is known[:3] @ (red,
            green, blue) + known[3], and it is one from a probability of one half on.
        info: further fields of `ModelInfo`.
    """
    if weight is None:
        weight = STRENGTH * np.roll(np.eye(3), seed, axis=1)
    path = folder / f"colour-{seed}.onnx"
    record = {"view": ViewSettings(size=64), "temperature": TEMPERATURE, "batch_size": 1, **info}
    if known is not None:
        record = {"min_known": 0.5, **record}
    model = _graph(np.asarray(weight, dtype=np.float32), wide_weight, known)
    helper.set_model_props(model, ModelInfo(name="colour", categories=tuple(categories), **record).to_metadata())
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _graph(weight: np.ndarray, wide_weight=None, known=None) -> onnx.ModelProto:
    images, masks, image_of = INPUTS
    logits, embeddings = OUTPUTS
    constants = {
        "weight": weight,
        "full": np.float32(255),
        "little": np.float32(1e-6),
        "last": np.array([3], dtype=np.int64),
        "sides": np.array([1, 2], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Cast", [images], ["image_floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["image_floats", "full"], ["colours"]),
        helper.make_node("Gather", ["colours", image_of], ["own"], axis=0),
        helper.make_node("Cast", [masks], ["mask_floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["mask_floats", "full"], ["coverage"]),
        helper.make_node("Unsqueeze", ["coverage", "last"], ["share"]),
        helper.make_node("Mul", ["own", "share"], ["weighed"]),
        helper.make_node("ReduceSum", ["weighed", "sides"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["share", "sides"], ["covered"], keepdims=0),
        helper.make_node("Add", ["covered", "little"], ["some"]),
        helper.make_node("Div", ["sum", "some"], [embeddings]),
        helper.make_node("Gemm", [embeddings, "weight"], [logits], transB=1),
    ]
    if wide_weight is not None:
        nodes[5] = helper.make_node("Sub", ["share", "share"], ["no_share"])
        nodes.insert(6, helper.make_node("Exp", ["no_share"], ["all"]))  # One everywhere.
        nodes[7] = helper.make_node("Mul", ["own", "all"], ["weighed"])
        nodes[9] = helper.make_node("ReduceSum", ["all", "sides"], ["covered"], keepdims=0)
        constants["both"] = np.stack([weight, np.asarray(wide_weight, dtype=np.float32)]).transpose(0, 2, 1)
        constants["one"] = np.array([1], dtype=np.int64)
        nodes[-1:] = [
            helper.make_node("Gather", ["both", CROP_OF], ["weights"], axis=0),
            helper.make_node("Unsqueeze", [embeddings, "one"], ["rows"]),
            helper.make_node("MatMul", ["rows", "weights"], ["products"]),
            helper.make_node("Squeeze", ["products", "one"], [logits]),
        ]
        nodes.insert(5, helper.make_node("Unsqueeze", ["coverage", "last"], ["share"]))
    if known is not None:
        constants["known_weight"] = np.asarray(known[:3], dtype=np.float32)[:, None]
        constants["known_bias"] = np.float32(known[3])
        constants["first"] = np.array([1], dtype=np.int64)
        nodes += [
            helper.make_node("MatMul", [embeddings, "known_weight"], ["known_column"]),
            helper.make_node("Squeeze", ["known_column", "first"], ["known_row"]),
            helper.make_node("Add", ["known_row", "known_bias"], [KNOWN]),
        ]
    inputs = [
        helper.make_tensor_value_info(images, TensorProto.UINT8, ["v", "h", "w", 3]),
        helper.make_tensor_value_info(masks, TensorProto.UINT8, ["n", "h", "w"]),
        helper.make_tensor_value_info(image_of, TensorProto.INT64, ["n"]),
    ]
    if wide_weight is not None:
        inputs.append(helper.make_tensor_value_info(CROP_OF, TensorProto.INT64, ["n"]))
    outputs = [
        helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["n", len(weight)]),
        helper.make_tensor_value_info(embeddings, TensorProto.FLOAT, ["n", 3]),
    ]
    if known is not None:
        outputs.append(helper.make_tensor_value_info(KNOWN, TensorProto.FLOAT, ["n"]))
    initialisers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "colour", inputs, outputs, initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
