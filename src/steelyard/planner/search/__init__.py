"""What is weighed: devices, settings, stages and fleets, and the plan that comes of them."""
