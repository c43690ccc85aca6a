"""How many machines a rate needs, from measured figures."""
