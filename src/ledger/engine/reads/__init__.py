"""A read as a question, its answer, the memory of answers, positions of views, filters as rows."""
