"""Our views, each in a folder of its feature: ``view.py`` (rows, tables, fold), ``statements.py``.

``ledger/app/features.py`` names them.
"""
