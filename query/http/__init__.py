"""What all routes of the query service share: threads, answers, formats, streams."""
