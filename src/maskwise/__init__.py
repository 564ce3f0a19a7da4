"""Name what is under a mask.

from maskwise import Predictor
predictor = Predictor()
predictions = predictor.predict(image, masks)
"""

from typing import TYPE_CHECKING, Any

from maskwise import errors

if TYPE_CHECKING:
    from maskwise.data.coco_file import CocoFile, read_coco
    from maskwise.data.coco_regions import regions_from_coco
    from maskwise.data.images import load_image
    from maskwise.data.label_maps import regions_from_label_maps
    from maskwise.data.masks import Mask
    from maskwise.data.regions import LabelledRegion, RegionSet
    from maskwise.model.prediction import Name, Prediction
    from maskwise.model.predictor import Predictor
    from maskwise.model.segment_network import EncodedImage
    from maskwise.model.segmenter import Segment, Segmenter
    from maskwise.reports.audit_folder import write_audit
    from maskwise.reports.overlay import draw_overlay
    from maskwise.reports.report_folder import write_report
    from maskwise.tasks.auditing import Audit, audit
    from maskwise.tasks.checking import check_label_maps, check_segments
    from maskwise.tasks.corrections import apply_corrections
    from maskwise.tasks.embedding_files import embed_coco
    from maskwise.tasks.evaluation import Evaluation, evaluate
    from maskwise.tasks.fitting import Fit, fit_classes
    from maskwise.tasks.joining import join_shards
    from maskwise.tasks.labelling import label_coco
    from maskwise.tasks.listing import ModelRecord, list_models
    from maskwise.tasks.naming import name_photos, name_things
    from maskwise.tasks.nothing import find_nothing
    from maskwise.tasks.segmenting import segment_photos
    from maskwise.tasks.sharded_labelling import label_shards
    from maskwise.tasks.suspicions import Suspicion
    from maskwise.tasks.writing import write_predictions

__version__ = "0.1.0"
__all__ = [
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

_HOMES = {
    "Audit": "tasks.auditing",
    "CocoFile": "data.coco_file",
    "EncodedImage": "model.segment_network",
    "Evaluation": "tasks.evaluation",
    "Fit": "tasks.fitting",
    "LabelledRegion": "data.regions",
    "Mask": "data.masks",
    "ModelRecord": "tasks.listing",
    "Name": "model.prediction",
    "Prediction": "model.prediction",
    "Predictor": "model.predictor",
    "RegionSet": "data.regions",
    "Segment": "model.segmenter",
    "Segmenter": "model.segmenter",
    "Suspicion": "tasks.suspicions",
    "apply_corrections": "tasks.corrections",
    "audit": "tasks.auditing",
    "check_label_maps": "tasks.checking",
    "check_segments": "tasks.checking",
    "draw_overlay": "reports.overlay",
    "embed_coco": "tasks.embedding_files",
    "evaluate": "tasks.evaluation",
    "find_nothing": "tasks.nothing",
    "fit_classes": "tasks.fitting",
    "join_shards": "tasks.joining",
    "label_coco": "tasks.labelling",
    "label_shards": "tasks.sharded_labelling",
    "list_models": "tasks.listing",
    "load_image": "data.images",
    "name_photos": "tasks.naming",
    "name_things": "tasks.naming",
    "read_coco": "data.coco_file",
    "regions_from_coco": "data.coco_regions",
    "regions_from_label_maps": "data.label_maps",
    "segment_photos": "tasks.segmenting",
    "write_audit": "reports.audit_folder",
    "write_predictions": "tasks.writing",
    "write_report": "reports.report_folder",
}


def __getattr__(name: str) -> Any:
    # Loaded at first use: `import maskwise` and `maskwise --help` should not wait for ONNX Runtime.
    if name not in _HOMES:
        raise AttributeError(f"module 'maskwise' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"maskwise.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
