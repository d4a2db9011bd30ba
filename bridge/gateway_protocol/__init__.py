"""What gateway and service say to each other: batches, answers, registry snapshots. Pure: bytes in, types out."""
