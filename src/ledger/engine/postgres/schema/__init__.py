"""Descriptions of tables, their definitions in the catalog, and the policies of their rows."""
