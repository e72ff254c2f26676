"""Keep what a sweep leaves behind in a folder or an object store. Each file is written once."""
