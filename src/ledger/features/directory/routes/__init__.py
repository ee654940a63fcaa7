"""The routes of the directory and of the search."""
