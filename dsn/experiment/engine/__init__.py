"""Jobs, and the engines that do them: on this machine, on Ray, on SLURM. docs/scale.md."""
