"""A few runs of `label` killed at random moments; `benchmarks/kills.py` kills two hundred."""

from kills import kill_runs


def test_a_killed_run_resumes_and_writes_what_an_undisturbed_one_writes(tmp_path):
    counts = kill_runs(tmp_path, 3, images=30)
    assert counts["kills"] >= 3
    assert counts["finished"] >= 1
    assert (counts["different"], counts["leftovers"]) == (0, 0)
