"""Speed and memory of this project and of TRL on the same work, side by side: `make bench`."""
