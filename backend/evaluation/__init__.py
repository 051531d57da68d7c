"""Evaluation: from predicted and annotated points to statistics, one record, figures and a report.

`comparison` is what is measured, `record.measure` measures it, `figures` and `report` show the record.
"""
