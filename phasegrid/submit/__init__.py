"""Runs on a cluster from elsewhere, through Ray Jobs."""
