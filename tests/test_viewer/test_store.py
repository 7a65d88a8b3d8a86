"""The store of exhibits and the answers about them, with what strangers may ask."""

from __future__ import annotations

import json
import threading

import pytest
from support_viewer import exhibit, heads_capture

from matrix_lib.viewer.answers import Answers, answer_about
from matrix_lib.viewer.exhibit import Exhibit, film_of
from matrix_lib.viewer.store import GoneError, Store, UnknownError


def test_ids_are_of_128_random_bits() -> None:
    store = Store(1 << 30)
    names = [store.put(exhibit()) for _ in range(20)]
    assert len(set(names)) == 20
    assert all(len(name) == 32 and set(name) <= set("0123456789abcdef") for name in names)


def test_the_store_keeps_to_its_bytes_and_lets_the_unseen_go_first() -> None:
    each = exhibit()
    size = each.nbytes + each.capture.nbytes
    store = Store(3 * size)
    first, second, third = (store.put(exhibit()) for _ in range(3))
    assert store.get(first)
    fourth = store.put(exhibit())
    assert store.nbytes <= 3 * size
    with pytest.raises(GoneError):
        store.get(second)
    assert all(store.get(name) for name in (first, third, fourth))
    with pytest.raises(UnknownError):
        store.get("0" * 32)


def test_a_capture_that_several_show_counts_once() -> None:
    one = exhibit()
    store = Store(one.capture.nbytes + 4 * one.nbytes)
    names = [store.put(Exhibit(one.capture, one.film, one.tracks)) for _ in range(4)]
    assert all(store.get(name) for name in names)


def test_what_is_too_large_is_refused_and_nothing_makes_room_for_it() -> None:
    store = Store(exhibit().capture.nbytes * 4)
    kept = store.put(exhibit())
    with pytest.raises(ValueError, match="the viewer may keep"):
        store.put(exhibit(layers=40, steps=30))
    assert store.get(kept)


def test_an_exhibit_that_grows_keeps_its_id_and_the_bound() -> None:
    small, large = exhibit(steps=1), exhibit(steps=3)
    store = Store(large.nbytes + large.capture.nbytes + small.nbytes)
    growing = store.put(small)
    other = store.put(exhibit(steps=1))
    assert store.replace(growing, large)
    assert store.get(growing) is large
    assert store.nbytes <= store.most_bytes
    with pytest.raises(GoneError):
        store.get(other)
    assert not store.replace(growing, exhibit(layers=40, steps=30))
    assert store.get(growing) is large, "what does not fit takes no place"
    store.drop(growing)
    assert not store.replace(growing, small)
    with pytest.raises(GoneError):
        store.get(growing)


def test_at_most_so_many_exhibits() -> None:
    store = Store(1 << 40, most=5)
    shown = exhibit()
    names = [store.put(shown) for _ in range(2000)]
    assert len(store) == 5
    with pytest.raises(GoneError):
        store.get(names[-6])
    with pytest.raises(UnknownError):  # remembered for a while, not for ever
        store.get(names[0])


HOSTILE = [
    ("map", {}),
    ("map", {"entities": "0,1,2,"}),
    ("map", {"entities": "-1"}),
    ("map", {"entities": "9" * 1000}),
    ("map", {"entities": ",".join(["0"] * 17)}),
    ("map", {"entities": "0", "layers": "0-" + "9" * 30}),
    ("map", {"entities": "0", "layers": "1e9"}),
    ("map", {"entities": "0", "steps": "../../etc/passwd"}),
    ("map", {"entities": "0", "kind": "__class__"}),
    ("map", {"entities": "0", "stream": "999999"}),
    ("map", {"entities": "0", "head": "1"}),
    ("scores", {}),
    ("scores", {"entity": "7"}),
    ("frame", {"number": "9"}),
    ("frame", {"number": "/etc/passwd"}),
    ("frame", {"number": "١"}),
]


@pytest.mark.parametrize(("what", "query"), HOSTILE)
def test_questions_that_cannot_be_answered(what: str, query: dict[str, str]) -> None:
    found = answer_about(exhibit(), what, query)
    assert found.status == 400
    assert json.loads(found.body)["error"]


def test_ids_and_words_that_are_none() -> None:
    store = Store(1 << 30)
    answers, name = Answers(store), store.put(exhibit())
    assert answers.to(name, "manifest", {}).ok
    for other in ("", "x", name.upper(), name[:-1], name + "0", "../" + name, "0" * 32, "\0" * 32):
        assert answers.to(other, "manifest", {}).status == 404, other
    assert answers.to(name, "file", {}).status == 404
    assert answers.to(name, "map", {"entities": "0", "layers": "0," * 2000}).status == 400


def test_an_exhibit_that_made_room_is_told_as_gone() -> None:
    store = Store(1 << 30, most=1)
    answers, first = Answers(store), store.put(exhibit())
    assert answers.to(first, "map", {"entities": "0"}).ok
    second = store.put(exhibit())
    gone = answers.to(first, "map", {"entities": "0"})
    assert gone.status == 410
    assert "make room" in json.loads(gone.body)["error"]
    assert answers.to(second, "map", {"entities": "0"}).ok


def test_a_thousand_at_once_get_one_answer_and_memory_stays_bounded() -> None:
    store = Store(1 << 30)
    answers, name = Answers(store, most_bytes=20_000), store.put(exhibit(steps=30))
    whole = answer_about(store.get(name), "map", {"entities": "0,1,2"}).body
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(answers.to(name, "map", {"entities": "0,1,2"}).body))
        for _ in range(100)
    ]
    for thread in threads:
        thread.start()
    for step in range(900):
        answers.to(name, "map", {"entities": "0", "steps": str(5 * (step % 30)), "layers": str(step % 4)})
    for thread in threads:
        thread.join()
    assert set(found) == {whole}
    assert answers.kept_bytes <= 20_000


def test_the_manifest_says_what_there_is() -> None:
    shown = exhibit(streams=2, calls=[2, 0, 1], label="<b>one</b>")
    told = json.loads(answer_about(shown, "manifest", {}).body)
    stream = told["streams"][1]
    assert "".join(piece["text"] for piece in stream["prompt"]) == shown.capture.streams[1].binding.prompt
    assert [piece["names"] for piece in stream["prompt"] if piece["names"]] == [["cyclist"], ["waits behind"], ["van"]]
    assert stream["grid"] == [3, 4, 6]
    assert stream["pictures"][-1] == [8, 2]
    assert stream["maps"]["v2v"]["layers"] == [0, 1]
    assert stream["maps"]["v2t"]["counts"] == [2, 0, 1]
    assert [mask["name"] for mask in stream["masks"]] == ["cyclist", "van"]
    assert told["film"] == {"frames": 9, "width": 96, "height": 64, "fps": 8.0}
    assert told["label"] == "<b>one</b>"


def test_heads_points_and_no_film() -> None:
    shown = Exhibit(heads_capture())
    told = json.loads(answer_about(shown, "manifest", {}).body)
    held = told["streams"][0]["maps"]["v2v"]
    assert held["heads"] == [0, 1, 2]
    assert held["points"] == {"spot": [1, 2, 3]}
    assert told["streams"][0]["pictures"] == [[0, 0], [0, 1]]
    assert told["film"]["frames"] == 0
    assert answer_about(shown, "map", {"entities": "0,1", "kind": "v2v", "head": "2"}).ok


def test_films_are_small_jpegs_of_one_size() -> None:
    import torch

    film = film_of(torch.rand(3, 900, 1600, 4))
    assert (film.width, film.height) == (640, 360)
    assert all(frame.startswith(b"\xff\xd8") for frame in film.frames)
    with pytest.raises(ValueError, match="1 to 4096 frames"):
        film_of(torch.rand(0, 4, 4, 3))
    with pytest.raises(ValueError, match=r"\(height, width, 3\)"):
        film_of(torch.rand(2, 4, 4, 1))
