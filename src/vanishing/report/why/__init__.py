"""What the analyses found: figures, tables and values of the report's section on causes, a module an analysis."""
