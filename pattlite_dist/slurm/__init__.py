"""Jobs on a SLURM cluster: described by a profile, checked, pinned, submitted, watched."""
