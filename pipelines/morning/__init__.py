"""What a person finds in the morning: a snapshot's report, as JSON and as one page.

`report.py` gathers the figures, `page.py` draws them; the files between are a section of the page each.
"""
