"""Events as others read them: in feeds, streams, histories and the audit log."""
