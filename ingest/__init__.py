"""The write path: gateway, queue, writer and artifacts."""
