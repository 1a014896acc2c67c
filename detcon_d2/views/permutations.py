"""Sets of permutations of nine tiles that differ in as many places as possible; an index means the same permutation on every machine.

The Hamming distance of two permutations is the number of places at which they differ. Groups come near its bounds without a search:
a sharply 2-transitive one has the largest set of distance 8, a sharply 3-transitive one that of distance 7.
"""

import itertools
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

TILES = 9


@lru_cache(maxsize=4)
def permutations(name: str) -> np.ndarray:
    """A set of permutations, in lexicographic order for the groups.

    Args:
        name: "agl9": the 72 affine maps x -> a x + b of the field of 9 elements, of least distance 8. "psl28": the 504 maps
            x -> (a x + b) / (c x + d) of the projective line over the field of 8, of least distance 7. A number 2..10000: so many from the
            identity on, each the one whose least distance to those before is largest, and of these the first.

    Returns:
        int64 (P, 9), read-only: row k has, for each place, the tile that is shown there.

    Raises ValueError: another name.
    """
    if name == "agl9":
        found = np.array(sorted(_affine_maps()))
    elif name == "psl28":
        found = np.array(sorted(_projective_maps()))
    elif name.isdecimal() and 2 <= int(name) <= 10000:
        found = _greedy(int(name))
    else:
        raise ValueError(f"DETCON.JIGSAW.PERMUTATIONS is {name!r}; expected 'agl9', 'psl28' or a number of permutations, '2' to '10000'.")
    found.flags.writeable = False
    return found


def _affine_maps() -> Iterator[tuple[int, ...]]:
    """The field of 9 elements: u + 3 v is u + v i, with i * i = -1, modulo 3."""

    def product(x: int, y: int) -> int:
        (v, u), (t, s) = divmod(x, 3), divmod(y, 3)
        return (u * s - v * t) % 3 + 3 * ((u * t + v * s) % 3)

    def total(x: int, y: int) -> int:
        return (x + y) % 3 + 3 * ((x // 3 + y // 3) % 3)

    for a, b in itertools.product(range(1, 9), range(9)):
        yield tuple(total(product(a, x), b) for x in range(9))


def _projective_maps() -> set[tuple[int, ...]]:
    """The field of 8 elements: bits are coefficients of polynomials modulo x^3 + x + 1; point 8 is infinity."""
    product = np.zeros((8, 8), int)
    for x, y in itertools.product(range(8), repeat=2):
        value = (x if y & 1 else 0) ^ (x << 1 if y & 2 else 0) ^ (x << 2 if y & 4 else 0)
        for bit in (4, 3):
            value ^= 0b1011 << (bit - 3) if value >> bit & 1 else 0
        product[x, y] = value
    inverse = {x: y for x, y in zip(*np.nonzero(product == 1))}

    def quotient(x: int, y: int) -> int:
        return 8 if y == 0 else int(product[x, inverse[y]])

    found = set()
    for a, b, c, d in itertools.product(range(8), repeat=4):
        if product[a, d] != product[b, c]:
            finite = [quotient(product[a, x] ^ b, product[c, x] ^ d) for x in range(8)]
            found.add((*finite, quotient(a, c)))
    return found


def _greedy(count: int) -> np.ndarray:
    candidates = np.array(list(itertools.permutations(range(TILES))), dtype=np.uint8)
    chosen, least = [0], np.full(len(candidates), TILES + 1)
    for _ in range(count - 1):
        np.minimum(least, (candidates != candidates[chosen[-1]]).sum(1), out=least)
        chosen.append(int(least.argmax()))
    return candidates[chosen].astype(np.int64)
