"""A file that ends the process that reads it. It is hostile, too: see its words."""

# MISTAKE : Airflow cannot load this file: File "{folder}/ends_the_process.py", line 7, in <module>
#    sys.exit("no airflow DAG today") SystemExit: no airflow DAG today
import sys

sys.exit("no airflow DAG today")
