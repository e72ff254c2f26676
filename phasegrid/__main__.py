"""``python -m phasegrid``."""

from phasegrid.cli import main

if __name__ == "__main__":
    main()
