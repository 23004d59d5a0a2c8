"""From a data set as people hold it to checked WebDataset shards."""
