"""What pages of ours may load and do: nothing that has to do with others."""


def content_policy(*more: str) -> str:
    """A Content-Security-Policy: what holds for every page, then a page's own directives."""
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
