"""Names of instances: what is one name, and what is not."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st
from support_counts import count

from matrix_lib.core.names import find_name, name_key, twice

NAMES = st.text(st.characters(categories=("L", "N", "M")), min_size=1, max_size=8).filter(str.strip)


@given(NAMES, st.sampled_from(("NFC", "NFD")), st.sampled_from((str, str.lower)), st.integers(1, 3))
@settings(max_examples=count(60, 6000))
def test_one_name_however_it_is_written(name, form, case, blanks):
    whole = f"{name} 1"
    written = unicodedata.normalize(form, case(whole)).replace(" ", " " * blanks)
    assert name_key(written) == name_key(whole)
    assert find_name(f" {written} ", [whole, "other name"]) == whole


def test_what_is_found():
    assert find_name("cup", ["Cup", "cup"]) == "cup", "the exact one where there are several"
    assert find_name("CUP", ["Cup", "cup"]) is None
    assert find_name("caf\u0065\u0301", ["Caf\u00e9"]) == "Caf\u00e9"
    assert find_name("cup 1", ["cup1"]) is None
    assert twice(["a", "b", "A"]) == ("a", "A")
    assert twice(["a", "b"]) is None
