from support_capture import make_capture, make_tracks


def test_a_capture_becomes_a_table_charts_and_layers(pack):
    capture, tracks = make_capture(pack.lib), make_tracks(pack.lib)
    out = pack.run("MatrixAnalyseLayers", capture=capture, tracks=tracks, keep=2, prompt=0)
    layers, text, report, words, instances = out.result
    assert isinstance(layers, pack.lib("core.layers").LayerSet)
    assert layers.v2t == (3, 2)
    assert text == "0, 1, 2, 3"
    assert "### words (video to text)" in report
    assert "### instances (video to video)" in report
    assert words.ndim == instances.ndim == 4
    assert words.shape != instances.shape or not (words == instances).all()
    assert out.ui["text"] == (report,)
    assert out.ui["images"]
