"""One model for many sessions: an engine that batches them, and an HTTP server in OpenAI's dialect."""
