"""Bad input for property tests: damaged files, documents with nonsense in them, and what must come of them."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import event
from hypothesis import strategies as st


NONSENSE = st.sampled_from(
    [
        *(None, True, False, -1, 0, 1, 7, 255, 10**6, 10**9, 10**30, 0.5, -0.5, float("nan"), float("inf")),
        *("", "x", "0", "255", "../..", "\ud800", [], {}, [1], [[]], ["x"], {"a": 1}, [10**9]),
    ]
)


def result_or_sentence(call: Callable[[], Any], name: str = "") -> Any:
    """What a call returns; `None` for an error that a command prints as one sentence, which must hold the name."""
    try:
        result = call()
    except (OSError, ValueError) as error:
        assert name in str(error), error
        assert str(error).strip()
        event("sentence")
        return None
    event("result")
    return result


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file that was cut off, or some of whose bytes were changed, lost or added."""
    changed = bytearray(content)
    place = st.one_of(st.integers(0, len(content) - 1), st.integers(0, min(200, len(content) - 1)))
    kind = draw(st.sampled_from(["bits", "bits", "bytes", "cut", "zeros", "added"]))
    start = draw(place)
    if kind == "bits":
        for _ in range(draw(st.integers(1, 3))):
            changed[draw(place)] ^= 1 << draw(st.integers(0, 7))
    elif kind == "bytes":
        for _ in range(draw(st.integers(1, 8))):
            changed[draw(place)] = draw(st.sampled_from([0, 127, 128, 255]))
    elif kind == "cut":
        del changed[start:]
    elif kind == "zeros":
        end = min(len(changed), start + draw(st.integers(1, 64)))
        changed[start:end] = bytes(end - start)
    else:
        changed[start:start] = draw(st.binary(min_size=1, max_size=20))
    return bytes(changed)


def with_nonsense(document: Any) -> st.SearchStrategy[Any]:
    """A JSON document, one place of which holds nonsense, is missing, is twice there or has another name."""
    if not isinstance(document, (dict, list)) or not document:
        return NONSENSE
    if isinstance(document, list):
        number = st.integers(0, len(document) - 1)
        return st.one_of(
            NONSENSE,
            number.map(lambda i: document[:i] + document[i + 1 :]),
            number.map(lambda i: [*document, document[i]]),
            number.flatmap(
                lambda i: with_nonsense(document[i]).map(lambda one: [*document[:i], one, *document[i + 1 :]])
            ),
        )
    name = st.sampled_from(sorted(document))
    others = st.sampled_from(["", "-1", "0", "1", "256", "1e3"])
    return st.one_of(
        NONSENSE,
        name.map(lambda key: {other: value for other, value in document.items() if other != key}),
        st.tuples(name, others).map(lambda pair: {pair[1] if k == pair[0] else k: v for k, v in document.items()}),
        name.flatmap(lambda key: with_nonsense(document[key]).map(lambda one: {**document, key: one})),
        name.flatmap(lambda key: with_nonsense(document[key]).map(lambda one: {**document, key: one})),
    )


def json_files(document: Any) -> st.SearchStrategy[bytes]:
    """JSON files with nonsense in the document, or in the text."""
    text = with_nonsense(document).map(json.dumps)
    texts = st.sampled_from(["", "[" * 100_000, '{"a":' * 500 + "1" + "}" * 500, '{"0": "a", "0": "b"}', "NaN"])
    whole = json.dumps(document).encode()
    plain = st.one_of(text, text, text, texts).map(lambda one: one.encode("utf-8", "surrogatepass"))
    return st.one_of(plain, plain, damaged(whole), st.just(whole.decode().encode("utf-16")))
