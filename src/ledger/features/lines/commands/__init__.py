"""Commands on lines: pause and resume, idle lines, holds."""
