"""What a sweep leaves behind, in a folder or an object store: written once, read by anybody."""
