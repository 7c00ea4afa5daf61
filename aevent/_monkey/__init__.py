"""The patched standard library: one file per module, `patcher` for all."""
