"""What can go wrong, as one tree.

    MaskwiseError
    ├── InputError            something given to us cannot be used
    │   ├── ImageError        an image file or array
    │   ├── MaskError         a mask, box or polygon
    │   └── AnnotationError   a COCO file, a label map, a list of classes
    ├── ModelError            a model file or checkpoint
    ├── SettingsError         settings that contradict each other or the data
    └── MissingExtraError     a part of Maskwise that is not installed

Every message names the thing that was given, what would have been accepted, and what to do. The command
line prints it as one line and exits with 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class MaskwiseError(Exception):
    """Base of every error that Maskwise raises on purpose."""


class InputError(MaskwiseError):
    """Something given to Maskwise cannot be used."""


class ImageError(InputError):
    """An image cannot be read or has an unusable form."""


class MaskError(InputError):
    """A mask, box or polygon does not describe a region of its image."""


class AnnotationError(InputError):
    """A COCO file, label map or list of classes breaks its format."""


class ModelError(MaskwiseError):
    """A model file or checkpoint is not one of ours, or does not fit."""


class SettingsError(MaskwiseError):
    """Settings contradict each other, or the data they are used on."""


class MissingExtraError(MaskwiseError):
    """A command needs an optional part of Maskwise that is not installed."""


@contextmanager
def naming_mask(what: str) -> Iterator[None]:
    """Errors of a mask say which one was meant.

    Args:
        what: stands before the message.

    Raises:
        MaskError: the block raised one.
    """
    try:
        yield
    except MaskError as error:
        raise MaskError(f"{what}: {error}") from error
