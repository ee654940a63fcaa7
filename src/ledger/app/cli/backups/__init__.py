"""The commands about backups: make one, restore it, erase again what it brought back."""
