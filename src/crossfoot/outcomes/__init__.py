"""What the business was promised: outcomes that are expected, statements that must always hold, and alerts when they do not."""
