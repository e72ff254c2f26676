"""Read and write the files of a store by relative names, on a disk or in an object store."""
