"""Replace the last layer of a model file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from maskwise.data.atomic_files import whole_file
from maskwise.errors import ModelError
from maskwise.model.model_file import INPUTS, OUTPUTS, ModelInfo, graph_inputs
from maskwise.model.session import open_session

if TYPE_CHECKING:
    pass

HEAD_TOLERANCE = 1e-3
"""Largest difference of a replaced last layer's logits from what NumPy makes of the embeddings, over their size."""


def replace_head(
    source: Path,
    weight: Float[np.ndarray, "classes features"],
    bias: Float[np.ndarray, " classes"],
    info: ModelInfo,
    output: Path,
) -> None:
    """Write a model file that is another's up to its embeddings, with a last layer of its own.

    Args:
        source: the other model file.
        weight: logits = embeddings @ weight.T + bias.
        bias: of each class.
        info: what the new file says of itself.
        output: the file to write, whole or not at all.

    Raises:
        ModelError: the new file's logits are not those of its embeddings; then nothing is written.
        InputError: the file cannot be written there.
    """
    import onnx
    from onnx.utils import Extractor

    logits, embeddings = OUTPUTS
    whole = onnx.load(source)
    declared = next(output for output in whole.graph.output if output.name == embeddings)
    model = Extractor(whole).extract_model(list(INPUTS), [embeddings])
    graph = model.graph
    for name, array in (("fitted.weight", weight), ("fitted.bias", bias)):
        graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    graph.node.append(onnx.helper.make_node("Gemm", [embeddings, "fitted.weight", "fitted.bias"], [logits], transB=1))
    rows = declared.type.tensor_type.shape.dim[0].dim_param or "regions"
    shape = onnx.helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, [rows, len(bias)])
    del graph.output[:]
    graph.output.extend([shape, declared])
    onnx.helper.set_model_props(model, info.to_metadata())
    onnx.checker.check_model(model)
    with whole_file(output) as temporary:
        onnx.save(model, temporary)
        _check_head(temporary, weight, bias)


def _check_head(path: Path, weight: np.ndarray, bias: np.ndarray) -> None:
    """Refuse a model file whose logits are not those that a last layer makes of its embeddings."""
    session, info = open_session(path)
    side = info.view.size
    image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    got, embeddings = session.run(list(OUTPUTS), graph_inputs(image, image[..., 0]))
    expected = embeddings @ weight.T + bias
    difference = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not difference <= HEAD_TOLERANCE:
        raise ModelError(f"the written model's logits differ by {difference:.2g} of their size; nothing was written")
