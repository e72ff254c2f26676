"""``python -m phasegrid``."""

from phasegrid.cli.main import main

if __name__ == "__main__":
    main()
