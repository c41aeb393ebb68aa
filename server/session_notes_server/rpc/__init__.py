"""The RPCs: validate, one call to the store, translate. Status codes are decided here and nowhere else."""
