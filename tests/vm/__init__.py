"""The probes on kernels other than this machine's, each booted in a virtual machine of its own."""
