"""One file, all sections: the whole checked experiment, how it is printed, summarised and built."""
