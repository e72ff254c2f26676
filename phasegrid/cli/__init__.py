"""The command line: commands and the texts that they print."""
