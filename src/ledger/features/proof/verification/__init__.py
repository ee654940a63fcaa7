"""The verification of what is stored (contract, Proof): by ``ledger verify``, and each night.

    check.py              the sealed log compared with the stored events
    checkpoints.py        the checkpoints to be compared
    stored.py             the stored events as leaves, and the tiles above compared with them
    derived.py            the tables that a process of the log writes, compared with a fold of it
    derived_once.py       of these, the rows that are written once
    derived_pages.py      of these, the rows that change
    derived_snapshots.py  of these, the snapshots
    differing.py          the differences, as they are named
    nightly.py            the loop that does all this each night

``features/proof/tables.py`` keeps the findings, and ``engine/views/rebuilding/compare.py`` compares
the views. Usage compares its own documents (``features/usage/reads/issued_documents.py``). Webhooks
tell the identities of failed deliveries (``features/webhooks/delivery/identities.py``).
"""
