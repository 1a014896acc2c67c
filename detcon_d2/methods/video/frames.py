"""What the methods on clips share: the range of the gaps between frames."""


def check_gaps(key: str, gaps: tuple[int, ...]) -> tuple[bool, str, object, str]:
    """The row of ``check_config`` for a key with the least and the largest gap."""
    good = len(gaps) == 2 and gaps[0] >= 1 and (gaps[1] == 0 or gaps[1] >= gaps[0])
    return good, key, tuple(gaps), "(least, largest) gap in frames, 1 <= least <= largest; 0 for the largest: as the clip allows"
