"""The servers that are measured, one file each, with the same verbs (``base.Server``)."""
