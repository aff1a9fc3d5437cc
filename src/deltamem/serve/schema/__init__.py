"""The bodies of requests, checked field by field. What the server cannot do it refuses instead of ignoring it."""
