"""The sealed log (contract 6): a transparency log over the events, which outsiders can check.

    leaf.py      what a leaf says of a stored event
    tree.py      the Merkle tree of RFC 6962: hashes, and which of them make up a root or a proof
    tiles.py     how the tree is kept: 256 hashes to a tile
    note.py      a checkpoint, and its signature
    shelf.py     the tables that hold all that, and the key
    witness.py   the last checkpoint, outside of the database
    sealer.py    the loop that seals what is new
    check.py     all of it compared with the stored events

What is sealed is never touched again; a tree only grows, and so each tile is a part of every later
one. Nothing here is in the way of an append: sealing follows the log, at most a second behind.
"""
