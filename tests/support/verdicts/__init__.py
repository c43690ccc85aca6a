"""The same requests, sent to Runstream and to stock MLflow."""
