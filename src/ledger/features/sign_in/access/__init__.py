"""From a token or a cookie to a principal."""
