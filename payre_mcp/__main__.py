"""`python -m payre_mcp` is `payre`."""

from payre_mcp.cli import main

if __name__ == "__main__":
    main()
