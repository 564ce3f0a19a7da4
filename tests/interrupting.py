"""Stop a run in the middle, as a person does with Ctrl-C."""

from collections.abc import Callable

import pytest

from maskwise.tasks import label_engines


def interrupt_at_seventh_image(monkeypatch, call: Callable[[], object]) -> KeyboardInterrupt:
    """Run something until the seventh image is read; return what is raised."""
    with monkeypatch.context() as patch:
        read, calls = label_engines.read_task, []

        def dies_at_seventh(*args):
            calls.append(args)
            if len(calls) == 7:
                raise KeyboardInterrupt
            return read(*args)

        patch.setattr(label_engines, "read_task", dies_at_seventh)
        with pytest.raises(KeyboardInterrupt) as caught:
            call()
    return caught.value
