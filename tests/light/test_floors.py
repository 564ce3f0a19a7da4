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
    "errors",
    "extras",
    "concurrency",
    "progress",
    "shared_files",
    "data",
    "views",
    "model",
    "tasks",
    "reports",
    "integrations",
    "training",
    "serve",
    "cli",
    "__main__",
]
"""From the lowest up. A module imports from floors below its own, and from its own folder."""


def imports_of(module):
    """What a module imports of maskwise anywhere in it, inside functions too."""
    path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    known = [name.split(".")[:2] for name in MODULES]
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"maskwise.{a.name}" for a in node.names] if node.module == "maskwise" else [node.module]
        yield from (name for name in names if name.split(".")[:2] in known)


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
    heavy = "{'onnxruntime', 'cv2', 'numpy', 'tyro', 'PIL', 'rich', 'msgspec'}"
    for code in (
        "import sys, maskwise, maskwise.cli",
        "import sys\nfrom maskwise.cli import main\nmain.run(['--help'])",
    ):
        check = f"{code}\nsys.exit(' '.join({heavy} & set(sys.modules)) or None)"
        subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.DEVNULL)


def floor_of(module):
    return FLOORS.index(module.split(".")[1])


def test_imports_point_down():
    for module in MODULES:
        for name in imports_of(module):
            same_folder = name.split(".")[1] == module.split(".")[1]
            assert same_folder or floor_of(name) < floor_of(module), f"{module} imports {name}"


def test_imports_within_a_folder_have_no_circle():
    imported = {module: {name for name in imports_of(module) if name in MODULES} for module in MODULES}
    left = set(MODULES)
    while free := {module for module in left if not imported[module] & left}:
        left -= free
    assert not left, f"in a circle, or above one: {sorted(left)}"


def test_a_module_has_another_name_than_what_it_holds():
    for module in MODULES:
        body = ast.parse(PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text()).body
        names = {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        assert module.rpartition(".")[2] not in names - {"main"}, module


def test_public_names():
    assert maskwise.__all__ == [
        "Audit",
        "CocoFile",
        "EncodedImage",
        "Evaluation",
        "Fit",
        "LabelledRegion",
        "Mask",
        "ModelRecord",
        "Name",
        "Prediction",
        "Predictor",
        "RegionSet",
        "Segment",
        "Segmenter",
        "Suspicion",
        "__version__",
        "apply_corrections",
        "audit",
        "check_label_maps",
        "check_segments",
        "draw_overlay",
        "embed_coco",
        "errors",
        "evaluate",
        "find_nothing",
        "fit_classes",
        "join_shards",
        "label_coco",
        "label_shards",
        "list_models",
        "load_image",
        "name_photos",
        "name_things",
        "read_coco",
        "regions_from_coco",
        "regions_from_label_maps",
        "segment_photos",
        "write_audit",
        "write_predictions",
        "write_report",
    ]
    for name in maskwise.__all__:
        assert getattr(maskwise, name) is not None
        assert name in dir(maskwise)
