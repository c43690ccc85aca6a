"""Points and newest values as ClickHouse has them: what every product of this package reads through."""
