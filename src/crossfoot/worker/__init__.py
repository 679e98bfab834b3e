"""The worker: receive, lease, run the handler, settle, retry, dead-letter."""
