"""Running graphs: a pool that survives killed workers, a checked cache, one result."""
