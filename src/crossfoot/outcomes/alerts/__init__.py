"""Alerts worth waking for: what is read, when it is an episode, and who is told of it."""
