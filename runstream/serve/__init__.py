"""All roles on one machine, supervised, over one folder."""
