"""Tables, macros, figures and notebooks, and the typeset report."""
