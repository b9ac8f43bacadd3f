"""``python -m monai_kd``: the command line."""

from monai_kd.cli import main

if __name__ == "__main__":
    main()
