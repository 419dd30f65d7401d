"""From attempts to verdicts: in this process, in worker processes with hard deadlines, or on the nodes of a cluster."""
