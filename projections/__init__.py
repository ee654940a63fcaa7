"""Our views, each in the folder of its feature: rows, tables and fold, and its ``statements``.

``ledger/app/features.py`` names them.
"""
