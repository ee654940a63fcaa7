"""The Content-Security-Policy of our pages: a page uses nothing from other sites."""


def content_policy(*more: str) -> str:
    """Return a Content-Security-Policy: every page's directives, then the page's own."""
    return "; ".join(
        (
            "default-src 'none'",
            "style-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            *more,
        )
    )
