"""Who may have how much of what all share: no organization has more of it than it leaves free."""


def share(room: int, taken: int) -> int:
    """How many more one that has so many may take, of which the room gets as many less."""
    return max((room - taken) // 2, int(taken == 0 < room))
