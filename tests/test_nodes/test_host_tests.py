"""The host's own unit tests pass beside this pack as without it."""

import pytest
from support_counts import SOAK

from scripts.host_tests import Found, compare, differences

SOME = ["tests-unit/utils", "tests-unit/feature_flags_test.py"]


@pytest.mark.soak
def test_the_hosts_own_tests_pass_as_without_the_pack(tmp_path):
    """All of them in `make soak`."""
    found = compare([] if SOAK else SOME, tmp_path)
    assert not found.worse, str(found)
    passed = sum(outcome == "passed" for outcome in found.beside.values())
    assert passed > (900 if SOAK else 30), str(found)


def test_a_test_that_passes_without_the_pack_alone_is_found():
    without = {"a": "passed", "b": "passed", "c": "failed", "d": "skipped", "e": "failed"}
    beside = {"a": "passed", "b": "failed", "c": "failed", "d": "skipped", "e": "passed", "f": "error"}
    differ = differences(without, beside)
    assert differ == {"b": ("passed", "failed"), "e": ("failed", "passed"), "f": ("missing", "error")}
    assert Found(without, beside, differ).worse == ["b"]
    assert Found(without, {"b": "passed"}, differences(without, {"b": "passed"})).worse == ["a"]
