"""How a bounded resource is shared: no organization holds more places than it leaves free."""


def share(room: int, taken: int) -> int:
    """Return how many of the ``room`` free places a holder of ``taken`` may take in addition.

    The holder then has no more places than are left free. Its first place needs one free place.
    """
    return max((room - taken) // 2, int(taken == 0 < room))
