"""What every route of the gateway shares: connections, hosts, answers, the servers behind."""
