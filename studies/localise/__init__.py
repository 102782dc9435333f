"""Does `parity net` name the right layers? Faults that are planted into ports of whole nets."""
