"""The lab of virtual machines. README.md says how to use it."""
