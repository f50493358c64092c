"""Pictures: the board viewer, the figures of a report, and the one HTML page that holds both and opens offline.

``board_trace`` holds what the viewer shows, as plain values; ``page`` turns it into HTML; ``figures`` and ``tables`` draw the parts of an
``interp.report.Report``. Nothing outside this package imports plotly, and reading a trace does not import it either.
"""
