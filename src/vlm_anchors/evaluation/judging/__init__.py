"""Language models as judges of open answers, and the reviews they wrote."""
