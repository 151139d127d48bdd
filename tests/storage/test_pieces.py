import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.storage.pieces import Piece, check_cover, share

SIZES = st.dictionaries(
    st.text("abc[]:", min_size=1, max_size=4), st.tuples(st.integers(0, 5000), st.sampled_from([1, 2, 4, 8])), max_size=12
)


@settings(max_examples=300, deadline=None)
@given(SIZES, st.integers(1, 9))
def test_each_element_is_shared_out_once_and_evenly(sizes, workers):
    shares = share(sizes, workers)
    assert len(shares) == workers
    pieces = [piece for part in shares for piece in part]
    check_cover(pieces, {name: count for name, (count, _) in sizes.items()})
    assert {piece.tensor for piece in pieces} == set(sizes)
    assert len(pieces) <= len(sizes) + workers - 1
    total = sum(count * width for count, width in sizes.values())
    for part in shares:
        held = sum((piece.end - piece.begin) * sizes[piece.tensor][1] for piece in part)
        assert held <= 1.1 * total / workers + 8  # and one element of the widest type
    assert shares == share(dict(reversed(sizes.items())), workers)


def test_a_cut_near_the_end_of_a_tensor_moves_there():
    # 96 + 104 = 200 elements of 1 byte; the half, 100, is 4 from the end of "a": within 5 % of 100.
    assert share({"a": (96, 1), "b": (104, 1)}, 2) == [[Piece("a", 0, 96)], [Piece("b", 0, 104)]]
    # 94 + 106: 6 away is too far, so "b" is cut after 6 of its elements.
    assert share({"a": (94, 1), "b": (106, 1)}, 2) == [[Piece("a", 0, 94), Piece("b", 0, 6)], [Piece("b", 6, 106)]]


def test_adams_three_copies_are_shared_by_eight_within_a_tenth():
    shapes = {f"layer{n}/kernel": (512, 512) for n in range(6)} | {f"layer{n}/bias": (512,) for n in range(6)}
    sizes = {f"{slot}{name}": (math.prod(shape), 4) for name, shape in shapes.items() for slot in ("", "m/", "v/")}
    held = [sum(4 * (piece.end - piece.begin) for piece in part) for part in share(sizes, 8)]
    assert max(held) <= 1.1 * np.mean(held)


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ([("a", 0, 4)], "4 of its 6 elements"),
        ([("a", 0, 4), ("a", 3, 6)], "element 3 is there twice"),
        ([("a", 0, 2), ("a", 4, 6)], "element 2 is there never"),
        ([("a", 0, 6), ("a", 0, 6)], "element 0 is there twice"),
        ([], "0 of its 6 elements"),
    ],
)
def test_pieces_that_do_not_cover_a_tensor_once_are_refused(pieces, problem):
    with pytest.raises(ValueError, match=problem):
        check_cover([Piece(*piece) for piece in pieces], {"a": 6})
