"""What is asked and what is answered: the request, the facts of the data, the plan and its price."""
