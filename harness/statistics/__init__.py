"""Values of images of patients become means, intervals, indices, tests and rankings."""
