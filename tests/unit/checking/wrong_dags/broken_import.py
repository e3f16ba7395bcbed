"""A file that cannot be imported."""

# MISTAKE : Airflow cannot load this file: File "{folder}/broken_import.py", line 7, in <module>
#    from shop_catalogue import PRODUCTS ModuleNotFoundError: No module named 'shop_catalogue'

# airflow reads a file with this word and that: DAG
from shop_catalogue import PRODUCTS

print(PRODUCTS)
