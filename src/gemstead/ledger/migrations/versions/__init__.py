"""One module for each step, in the form that Alembic looks for. What a step does is said in the branch's own module."""
