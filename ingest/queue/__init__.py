"""The durable queue between gateway and writer: one protocol, several backends."""
