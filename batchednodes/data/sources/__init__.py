"""Where data come from: files of the user's own, data sets of other packages, and data that are made."""
