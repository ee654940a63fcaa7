"""Tables as they are described, as the catalog has them, and the policies of their rows."""
