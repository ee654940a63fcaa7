"""The board and the page of a line."""
