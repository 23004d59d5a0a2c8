"""One page about one run or several: self-contained, opened by any browser from any folder."""
