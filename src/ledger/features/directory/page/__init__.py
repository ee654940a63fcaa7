"""The palette, the pickers of filters, the way to an id."""
