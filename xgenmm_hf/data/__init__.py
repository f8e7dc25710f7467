"""Training data: rows, the formats they come in, and mixtures of them.

`rows` is the one schema, `adapters` turns public formats into it, `mixture` puts files together, `preview` and
`showing` show what a mixture holds, `encoding` and `lengths` say which tokens its rows become.
"""
