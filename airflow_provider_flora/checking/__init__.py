"""Checks DAG files before they are deployed: techniques, inputs, limits, and what a DAG run costs. Starts nothing.

``process`` is the way in: DAG files are code, which a process of its own runs. There, ``dags`` parses them,
``tasks`` finds Flora's tasks, ``known`` tells what their parameters are before a run, ``catalogue`` and
``at_flora`` know the techniques, and ``checks`` compares. What comes of it is a ``report``.
"""
