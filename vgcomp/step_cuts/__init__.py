"""Where a denoiser's graph can be cut, so that one step's values serve the next: cuts, their costs, their programs."""
