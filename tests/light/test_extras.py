"""What a missing optional part says, for an installation from a registry and from a checkout."""

import json

import pytest

from maskwise import extras
from maskwise.errors import MissingExtraError
from maskwise.extras import install_command, needs_extra


class Installed:
    """An installation with this `direct_url.json`, or none."""

    def __init__(self, record):
        self.record = record

    def read_text(self, name):
        assert name == "direct_url.json"
        return None if self.record is None else json.dumps(self.record)


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (None, "pip install 'maskwise[fit]'"),
        ({"url": "https://x.org/maskwise.whl", "archive_info": {}}, "pip install 'maskwise[fit]'"),
        ({"url": "file:///home/a/mask%20wise", "dir_info": {}}, "pip install '/home/a/mask wise[fit]'"),
        ({"url": "file:///home/a/mw", "dir_info": {"editable": True}}, "pip install -e '/home/a/mw[fit]'"),
    ],
)
def test_the_command_is_true_for_the_installation(monkeypatch, record, command):
    monkeypatch.setattr(extras.metadata, "distribution", lambda _name: Installed(record))
    assert install_command("fit") == command


def test_a_source_tree_that_is_not_installed_gets_the_registry_command(monkeypatch):
    def missing(name):
        raise extras.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(extras.metadata, "distribution", missing)
    assert install_command("ray") == "pip install 'maskwise[ray]'"


def test_a_missing_package_becomes_one_line():
    message = r"^this needs the package no_such_package; install it with: pip install"
    with pytest.raises(MissingExtraError, match=message), needs_extra("report"):
        import no_such_package  # noqa: F401
