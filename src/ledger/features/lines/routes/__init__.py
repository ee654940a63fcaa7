"""The routes of lines and of their holds."""
