"""A read as a question, its answer, the memory of answers, the positions of views."""
