"""The report on a search: from what its output directory holds to HTML, Markdown and JSON. Nothing is measured here."""
