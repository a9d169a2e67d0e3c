"""JSON that is read quickly, held against the long way."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekin.schemas import json_values

TEXTS = st.text(st.sampled_from('a\\"\0\ud800é\n{}1'), max_size=6)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda values: st.one_of(st.lists(values, max_size=3), st.dictionaries(TEXTS, values, max_size=3)),
    max_leaves=6,
)
LINES = st.one_of(
    st.builds(json.dumps, VALUES, ensure_ascii=st.booleans()),
    st.text(st.sampled_from('{}[]":,\\u0d8e9-1.atruefNI '), max_size=20),
    st.sampled_from(['{"a": 1e999}', '{"a": [-1e999]}', '{"a": NaN}', '{"a": "\\ud800"}', '{"a": ' + "9" * 5000 + "}"]),
)


def read(text: str, **options: Any) -> Any:
    try:
        # nan is not equal to itself
        return repr(json_values.load(text, **options))
    except json_values.Unkept as error:
        return error.args


@given(LINES)
def test_both_ways_read_the_same(text: str) -> None:
    # any other rule for constants takes the long way
    assert read(text) == read(text, constant=partial(json_values.refuse_constant))


@pytest.mark.parametrize("text", ['{"a": 1e999}', '{"a": {"b": [1, -1e999]}}'])
def test_a_number_that_is_too_large_is_told(text: str) -> None:
    with pytest.raises(json_values.Unkept, match="too large"):
        json_values.load(text)
