"""What frameworks ask for, and what this installation shows for it: `evidence` gathers, `judge` decides, and
`controls.toml` holds what is asked. None of it says that anyone complies: it says what is set, what is tested and what
is left to do.
"""
