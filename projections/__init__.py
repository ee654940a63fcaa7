"""Our views, each in a folder of its feature: rows, tables, fold in ``view``, and ``statements``.

``ledger/app/features.py`` names them.
"""
