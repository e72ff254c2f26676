"""Define the commands of the command line and the texts that they print."""
