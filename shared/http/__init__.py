"""How the outside speaks to a service: commands, queries, problems, documents and the page, all following from tables."""
