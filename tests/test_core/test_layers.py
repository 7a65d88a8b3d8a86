import pytest

from matrix_lib.core.layers import LayerSet


def test_round_trip_and_text():
    layers = LayerSet("cogvideox", (11, 7), (12,), "the paper", {"v2t": {"7": 0.2, "11": 0.3}})
    assert LayerSet.from_json(layers.to_json()) == layers
    assert layers.text == "7, 11, 12"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"backbone": "x"}', '{"backbone": 1, "v2t": ["a"], "v2v": [], "source": ""}']
)
def test_anything_else_is_told(text):
    with pytest.raises(ValueError, match="no set of layers"):
        LayerSet.from_json(text)


def test_numbers_are_checked():
    with pytest.raises(ValueError, match="v2v layers are different numbers"):
        LayerSet("wan", (1,), (2, 2), "x")
