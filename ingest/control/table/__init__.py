"""Tables of runs: Runstream's own reading of many runs, with numbers about their series."""
