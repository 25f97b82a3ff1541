"""``python -m onnxsep``: the command where no script is on the path."""

from onnxsep.cli import main

if __name__ == "__main__":
    main()
