"""Name what is under a mask.

from maskwise import Predictor
predictor = Predictor()
names = predictor.predict(image, masks)
"""

from typing import TYPE_CHECKING, Any

from maskwise import errors

if TYPE_CHECKING:
    from maskwise.images import load_image
    from maskwise.masks import Mask
    from maskwise.predictor import Name, Prediction, Predictor

__version__ = "0.1.0"
__all__ = ["Mask", "Name", "Prediction", "Predictor", "__version__", "errors", "load_image"]

_HOMES = {
    "Mask": "masks",
    "Name": "predictor",
    "Prediction": "predictor",
    "Predictor": "predictor",
    "load_image": "images",
}


def __getattr__(name: str) -> Any:
    # Loaded at first use: `import maskwise` and `maskwise --help` should not wait for ONNX Runtime.
    if name not in _HOMES:
        raise AttributeError(f"module 'maskwise' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"maskwise.{_HOMES[name]}"), name)
