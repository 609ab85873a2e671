"""A new model beside the one that stands: copies of live requests, what is counted of them, the decision."""
