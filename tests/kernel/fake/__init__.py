"""The sources of a QEMU that only makes requests, and how they become binaries."""
