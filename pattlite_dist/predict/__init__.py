"""A trained network at work: from photographs, folders and videos to labels."""
