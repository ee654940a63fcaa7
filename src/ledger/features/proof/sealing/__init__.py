"""The sealed log (contract, Proof): a transparency log over the events, which outsiders can check.

    leaf.py        the leaf of a stored event
    tree.py        the Merkle tree of RFC 6962: the hashes of roots and proofs
    tiles.py       the form in which the tree is stored: 256 hashes per tile
    note.py        a checkpoint, and its signature
    shelf.py       the tables of tiles and checkpoints, and the key
    witness.py     the last checkpoint that a node has seen, in its data directory
    peers.py       what a node may do: follow, seal, or nothing more
    watch.py       what a node knows
    beat.py        the loop that reports the node, and follows
    growth.py      the log compared with checkpoints, and the tree as it grows
    sealer.py      the loop that seals new events
    origins.py     an operator adopts the log: a new origin

A sealed leaf never changes. The tree only grows, so each tree is a part of every later one. No
append waits for sealing: the sealer follows the log, at most a second behind.
"""
