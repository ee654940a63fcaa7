"""The verification of what is stored (contract, Proof): by ``ledger verify``, and each night.

    check.py              the sealed log compared with the stored events
    checkpoints.py        the checkpoints to be compared
    stored.py             the stored events as leaves, and the tiles above compared with them
    derived.py            the tables that follow from the log, compared with a fold of it
    derived_once.py       the rows of these tables that are written once
    derived_pages.py      the rows that change
    derived_snapshots.py  the snapshots of long streams
    differing.py          the differences, in words
    nightly.py            the loop that does all this each night

``features/proof/tables.py`` stores the findings; ``engine/views/rebuilding/compare.py`` compares
the views. Usage compares its own documents (``features/usage/reads/issued_documents.py``). Webhooks
supply the identities of failed deliveries (``features/webhooks/delivery/identities.py``).
"""
