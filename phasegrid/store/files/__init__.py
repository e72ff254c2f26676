"""Files of a store as bytes under relative names, on a disk or in an object store."""
