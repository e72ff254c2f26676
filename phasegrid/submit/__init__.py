"""Start, follow and stop runs on a cluster from another machine, through Ray Jobs."""
