"""Files: adapters, ours and the published release's, and memories; read, written, checked, fetched and shown."""
