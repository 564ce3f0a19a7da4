"""Cores by affinity and by the quotas of control groups, in made-up folders."""

import os

import pytest

from maskwise.model import session
from maskwise.model.session import available_cores


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """A function that writes control groups: this process's own, and files below the root."""
    monkeypatch.setattr(session, "CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(session, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(16)))

    def write(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "700000 100000\n"}, 7),
        ("0::/pod/box\n", {"pod/box/cpu.max": "400000 100000\n", "pod/cpu.max": "700000 100000\n"}, 4),
        ("0::/pod\n", {"pod/cpu.max": "10000 100000\n"}, 1),
        (
            "4:memory:/a\n3:cpu,cpuacct:/a/b\n",
            {
                "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
                "cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
    ],
)
def test_the_tightest_quota_counts_rounded_up(cgroups, own, files, cores):
    cgroups(own, files)
    assert available_cores() == cores


def test_affinity_counts_where_there_is_no_quota(cgroups, monkeypatch):
    cgroups("0::/\n", {"cpu.max": "max 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {3, 5, 6})
    assert available_cores() == 3


def test_no_control_groups_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "OWN_CGROUPS", tmp_path / "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1})
    assert available_cores() == 2
