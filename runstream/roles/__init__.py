"""Settings into running roles: here, and only here, parts are put together."""
