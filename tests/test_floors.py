"""The lower floor needs no torch, and imports point down."""

import ast
import subprocess
import sys
from pathlib import Path

import maskwise

PACKAGE = Path(maskwise.__file__).parent
MODULES = sorted(
    ".".join(("maskwise", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
)
FLOORS = [
    {"errors"},
    {"files", "images", "masks", "sums", "ahead", "calibration", "metrics"},
    {"regions", "heads", "cocoindex"},
    {"coco", "labelmaps", "views", "sloppy", "sheet"},
    {"modelfile", "sharing"},
    {"runner"},
    {"predictor"},
    {"evaluate", "fit", "label", "overlay"},
    {"report"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
USE_TRAINING = {
    "maskwise.commands.average",
    "maskwise.commands.train",
    "maskwise.commands.export",
    "maskwise.commands.compare",
    "maskwise.commands.import_eppel",
}


def imports_of(module):
    """What a module imports of maskwise anywhere in it, inside functions too."""
    path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"maskwise.{a.name}" for a in node.names] if node.module == "maskwise" else [node.module]
        yield from (name for name in names if name.startswith("maskwise."))


def floor_of(module):
    name = module.split(".")[1]
    return next((number for number, names in enumerate(FLOORS) if name in names), None)


def lower(modules):
    return [module for module in modules if not module.startswith("maskwise.training")]


def test_lower_floor_needs_no_torch():
    code = f"""
import sys
from importlib import import_module
for name in {lower(MODULES)}:
    import_module(name)
heavy = {{"torch", "torchvision", "timm", "accelerate", "onnx"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_does_not_wait_for_the_runtime():
    code = "import sys, maskwise, maskwise.cli; sys.exit(bool({'onnxruntime', 'cv2', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lower_floor_does_not_import_the_upper():
    for module in lower(MODULES):
        upward = [name for name in imports_of(module) if name.startswith("maskwise.training")]
        assert not upward or module in USE_TRAINING, f"{module} imports {upward}"


def test_imports_point_down():
    for module in lower(MODULES):
        floor = floor_of(module)
        assert floor is not None, f"{module}: give it its place in FLOORS"
        for name in lower(imports_of(module)):
            known = floor_of(name)
            if known is not None and name.split(".")[1] != module.split(".")[1]:
                assert known < floor, f"{module} imports {name}"


def test_public_names():
    assert maskwise.__all__ == ["Mask", "Name", "Prediction", "Predictor", "__version__", "errors", "load_image"]
    for name in maskwise.__all__:
        assert getattr(maskwise, name) is not None
