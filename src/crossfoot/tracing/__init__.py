"""Spans for OpenTelemetry, where the program has set a tracer provider; without one, nothing happens and nothing is imported.

    words.py        names of spans, attributes and events
    provider.py     whether there is a tracer, and the W3C context between messages and spans; nothing of it ever raises
    producing.py    spans of what is published and sent
    delivering.py   spans of deliveries, of batches, and of what settles them

Sources: OpenTelemetry's semantic conventions for messaging spans (in development; as of 1.44), those for CloudEvents, and
W3C Trace Context, which travels in the envelope's `traceparent` and `tracestate`.
"""
