"""What every suite needs: load, its bodies, meters, the check of what was kept, reports."""
